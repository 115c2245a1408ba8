"""Text from files, made safe to print: a terminal obeys escape sequences, wherever they come from."""

from __future__ import annotations


def printable(text: str, *, lines: bool = False) -> str:
    r"""A text in which everything that is not printed as a character is escaped, as in a Python string.

    That is control characters, such as those that begin escape sequences, and invisible ones that change the order of
    the others.

    Args:
        text: of any origin; what is escaped already stays as it is.
        lines: line breaks and tabs are kept.

    Examples:
        >>> print(printable("relu\x1b[2J\nbest"))
        relu\x1b[2J\nbest
        >>> print(printable("largeur élevée\nbest", lines=True))
        largeur élevée
        best
    """
    kept = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in kept else ascii(character)[1:-1] for character in text
    )
