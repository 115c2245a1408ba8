"""Students on disk: complete or missing, and equal when they are read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.errors import ConfigurationError
from autodistill.frameworks import student_files as students
from autodistill.frameworks.student_files import load_student, save_student
from autodistill.tensors import identical


class Tied(nn.Module):
    """Two layers of one weight, a buffer, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(self.second(self.first(x))))


def bert() -> BertModel:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=10, max_position_embeddings=8, **sizes))


def test_plain_student_is_read_back_to_the_bit_in_eval_mode(tmp_path: Path) -> None:
    student = Tied()
    student(torch.randn(8, 4))  # moves the running statistics
    save_student(student, {"width": 4}, tmp_path / "student")
    fresh = Tied().train()
    loaded = load_student(fresh, tmp_path / "student")
    assert loaded is fresh
    assert not loaded.training
    assert loaded.second.weight is loaded.first.weight
    assert identical(dict(loaded.state_dict()), dict(student.state_dict()))
    x = torch.randn(3, 4)
    assert torch.equal(loaded(x), student.eval()(x))


def test_transformers_student_is_written_as_its_library_does(tmp_path: Path) -> None:
    student = bert()
    save_student(student, {"layers": 1}, tmp_path / "student")
    assert {"config.json", "model.safetensors", "architecture.json"} <= {
        f.name for f in (tmp_path / "student").iterdir()
    }
    loaded = load_student(bert(), tmp_path / "student")
    assert not loaded.training
    assert identical(dict(loaded.state_dict()), dict(student.state_dict()))


def test_architecture_is_beside_the_weights_and_weights_are_safetensors(tmp_path: Path) -> None:
    save_student(nn.Linear(2, 3), {"width": 3, "kind": "linear"}, tmp_path / "student")
    assert json.loads((tmp_path / "student" / "architecture.json").read_text()) == {"width": 3, "kind": "linear"}
    with safe_open(tmp_path / "student" / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["bias", "weight"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["student"]


def test_saving_again_replaces_the_old_student(tmp_path: Path) -> None:
    save_student(bert(), {"a": 1}, tmp_path / "student")
    student = nn.Linear(2, 2)
    save_student(student, {"a": 2}, tmp_path / "student")
    assert {entry.name for entry in (tmp_path / "student").iterdir()} == {"model.safetensors", "architecture.json"}
    assert torch.equal(load_student(nn.Linear(2, 2), tmp_path / "student").weight, student.weight)


def test_failure_while_writing_leaves_the_old_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = nn.Linear(2, 2)
    save_student(old, {"a": 1}, tmp_path / "student")
    with monkeypatch.context() as patch:
        patch.setattr(students, "write_json", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_student(nn.Linear(2, 2), {"a": 2}, tmp_path / "student")
    assert torch.equal(load_student(nn.Linear(2, 2), tmp_path / "student").weight, old.weight)
    save_student(nn.Linear(2, 2), {"a": 3}, tmp_path / "student")  # incomplete files do not disturb the next writing
    assert json.loads((tmp_path / "student" / "architecture.json").read_text()) == {"a": 3}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["student"]


def test_weights_of_another_architecture_are_not_loaded(tmp_path: Path) -> None:
    save_student(nn.Linear(2, 2), {"width": 2}, tmp_path / "student")
    with pytest.raises(ConfigurationError, match=r"(?s)has other weights.*size mismatch"):
        load_student(nn.Linear(2, 3), tmp_path / "student")


def test_a_student_of_another_precision_is_loaded_in_it(tmp_path: Path) -> None:
    student = nn.Linear(2, 2).double()
    save_student(student, {"width": 2}, tmp_path / "student")
    loaded = load_student(nn.Linear(2, 2), tmp_path / "student")
    assert torch.equal(loaded.weight, student.weight)
    assert loaded.weight.dtype == torch.float64
