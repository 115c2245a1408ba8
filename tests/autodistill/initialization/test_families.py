"""The tables: they name weights that are there, all of them; and a table of the user's own is as good as ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from identity_cases import CASES, DEPTH, EXACT, PERMUTATION, WIDTH, randomised, square_subspace
from torch import nn

from autodistill.distillation.models import plain_forward
from autodistill.initialization.families import FAMILIES, HeadSizes, config_heads, family_of
from autodistill.initialization.from_teacher import initialize_from_teacher

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_family.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_family", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_family_of_the_table_is_in_the_identity_test():
    tested = {type(case.make(WIDTH, 1)).config_class.model_type for case in CASES.values()}
    assert tested == set(FAMILIES)


def test_a_base_model_is_found_inside_any_model():
    for case in CASES.values():
        model = case.make(WIDTH, DEPTH)
        path, base, family = family_of(model)
        assert model.get_submodule(path) is base
        assert family is FAMILIES[base.config.model_type]
        assert family.depth(base) == DEPTH
    assert family_of(nn.Linear(2, 2)) is None


def test_head_sizes_are_those_of_the_configuration():
    sizes = {name: config_heads(case.make(WIDTH, 1)) for name, case in CASES.items()}
    assert sizes["BERT, pooled"] == HeadSizes(4, 4, 4)
    assert sizes["Llama, words"] == HeadSizes(4, 2, 4)
    assert sizes["T5 encoder"] == HeadSizes(4, 4, 4)
    assert sizes["MobileBERT, pooled"] == HeadSizes(2, 2, 6)


def test_a_tables_text_is_the_same_in_every_process():
    """Searches are compared by it when they are resumed."""
    assert all(" at 0x" not in repr(family) for family in FAMILIES.values())


@torch.no_grad()
@pytest.mark.parametrize("layers", [None, [2, 0, 1]])
def test_a_table_of_the_users_own_gives_a_student_that_computes_what_its_teacher_does(example, layers):
    teacher, student = (randomised(example.RowEncoder(WIDTH, DEPTH), seed) for seed in (1, 2))
    subspace = square_subspace(PERMUTATION)
    start = initialize_from_teacher(student, teacher, subspace, layers=layers, family=example.ENCODER)
    assert start.untouched == ()
    digits = torch.rand(5, 8, 8, dtype=torch.float64)
    if layers is not None:
        states = [{name: value.clone() for name, value in one.state_dict().items()} for one in teacher.encoder.layers]
        for block, layer in zip(teacher.encoder.layers, layers, strict=True):
            block.load_state_dict(states[layer])
    with plain_forward(teacher), plain_forward(student):
        torch.testing.assert_close(student(digits), teacher(digits), atol=EXACT, rtol=EXACT)
