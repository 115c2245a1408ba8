"""The Python in the README and the guides runs unchanged; the files that they link to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND_LINE = "docs/command_line.md"  # its Python needs the output of its commands: tests/test_examples.py runs both
GUIDES = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
WITHOUT_PYTHON = ["docs/architecture.md", "docs/glossary.md"]
DOCUMENTS = ["README.md", *(guide for guide in GUIDES if guide not in (COMMAND_LINE, *WITHOUT_PYTHON))]


def python_blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One directory for all documents, in their order: a guide may read the output of the README's example."""
    return tmp_path_factory.mktemp("documents")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_python_of_a_document_runs(document, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    namespace = {}
    blocks = python_blocks(document)
    assert blocks
    for block in blocks:
        exec(compile(block, document, "exec"), namespace)
    if document == "README.md":
        assert namespace["agent"].best_model_arch is not None
        assert len(namespace["agent"].search_result.completed) == 5
        assert not namespace["student"].training


@pytest.mark.parametrize("document", [*DOCUMENTS, COMMAND_LINE, *WITHOUT_PYTHON, "CONTRIBUTING.md"])
def test_the_files_that_a_document_links_to_exist(document):
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
        assert (folder / target).exists(), target


def test_the_files_that_the_map_of_the_architecture_names_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/]+\.py\b", text))
    assert len(named) > 20
    assert [
        name for name in sorted(named) if not any((ROOT / part / name).exists() for part in ("", "autodistill"))
    ] == []
