"""Text from a stranger's file is shown, and never obeyed by the terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from autodistill.report.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # an escape sequence in one character
        ("safe\rfake", r"safe\rfake"),
        ("a\u202eb", r"a\u202eb"),  # writes from right to left
        ("a\ud800b", r"a\ud800b"),  # cannot be encoded
        ("C:\\new 'x' \"y\" é 模型 🙂", "C:\\new 'x' \"y\" é 模型 🙂"),
        ("", ""),
    ],
)
def test_characters_are_kept_and_controls_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == printable(text, lines=True) == printable(printable(text)) == shown


def test_line_breaks_are_kept_only_in_a_text_of_several_lines() -> None:
    assert printable("a\n\tb\r\n") == r"a\n\tb\r\n"
    assert printable("a\n\tb\r\n", lines=True) == "a\n\tb\\r\n"


def test_no_control_or_format_character_remains() -> None:
    shown = printable("".join(map(chr, range(sys.maxunicode + 1))))
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
