"""Students made by projection: what is measured and fitted by default, and their embeddings."""

from __future__ import annotations

import pytest
import torch
from pairings import CHANNELS, MAKERS, means, pairing
from torch import nn

from autodistill.initialization.projection import Projection, write_embeddings


@pytest.mark.parametrize(
    ("setting", "measured"),
    [("auto", "activations"), ("weights", None), ("activations", "activations"), ("gradients", "gradients")],
)
def test_importance_is_that_of_activations_by_default(setting: str, measured: str | None) -> None:
    method = Projection(pairing("BERT").family)
    assert method.importance(setting) == measured
    assert method.importance_problem(setting, nn.Linear(1, 1)) is None


@pytest.mark.parametrize(
    ("name", "setting", "fitted"),
    [
        ("BERT", "auto", "norms"),
        ("BERT", "norms", "norms"),
        ("BERT", "all", "all"),
        ("BERT", "none", "none"),
        ("Llama", "auto", "none"),
        ("Llama", "norms", "none"),
        ("Llama", "all", "all"),
    ],
)
def test_least_squares_depends_on_the_norms_of_the_family(name: str, setting: str, fitted: str) -> None:
    pair = pairing(name)
    assert Projection(pair.family).least_squares(setting, pair.teacher) == fitted


def test_maps_are_fitted_by_default_unless_the_model_predicts_the_next_token() -> None:
    pair = pairing("Llama")
    assert Projection(pair.family).least_squares("auto", pair.teacher.model) == "all"


def test_embeddings_are_the_selected_channels_of_the_teachers() -> None:
    pair = pairing("BERT", mean=True, scale=4.0)
    write_embeddings(pair)
    teacher, student = pair.teacher.bert.embeddings, pair.student.bert.embeddings
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        weight = teacher.get_submodule(table).weight.data
        torch.testing.assert_close(student.get_submodule(table).weight.data, weight[:, CHANNELS] / 4)
    torch.testing.assert_close(student.LayerNorm.bias.data, (teacher.LayerNorm.bias.data - means()[0])[CHANNELS] / 4)


def test_embeddings_only_leaves_the_blocks_and_outputs_as_built() -> None:
    pair = pairing("Llama")
    before = {name: tensor.clone() for name, tensor in pair.student.state_dict().items()}
    Projection(pair.family).write(pair, embeddings_only=True)
    changed = {name for name, tensor in pair.student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"model.embed_tokens.weight"}
    Projection(pair.family).write(pair, embeddings_only=False)
    assert pair.written == set(pair.student.parameters())


def test_student_and_teacher_that_fit_have_no_problems() -> None:
    for name in MAKERS:
        assert Projection(pairing(name).family).problems(pairing(name)) == []
