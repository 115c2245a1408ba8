"""The tables of families: every weight that they name exists, and a user's own table has the same effect."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import BERT_LIKE, hugging_face
from identity_cases import (
    CASES,
    DEPTH,
    EXACT,
    KEEPS_CONSTANT,
    PERMUTATION,
    SELECTION,
    WIDTH,
    randomised,
    square_subspace,
)
from peft import LoraConfig, get_peft_model
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.initialization.channel_selection import SELECTIONS
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.models.families import FAMILIES, ChannelFamily, Family, FeedForward, HeadSizes, config_heads, family_of
from autodistill.models.modes import plain_forward

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
        assert family is FAMILIES[base.config.model_type].weights
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


def test_a_tables_text_is_what_earlier_versions_recorded():
    family = Family("layers", (FeedForward(("up",), "down", "norm"),), ("rows",), norm_position="after")
    assert InitializationConfig(family=family).model_dump()["family"] == (
        "Family(blocks='layers', parts=(FeedForward(readers=('up',), output='down', norm='norm'),), "
        "embeddings=('rows',), norm_position='after', centred=True, embedding_norm=None, final_norm=None, outputs=(), "
        "heads_agree=False, axes=None)"
    )


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_fields_that_earlier_versions_did_not_have_are_in_the_text_only_if_they_are_set(name):
    table = FAMILIES[name].weights
    assert ", axes=None)" in table.text
    assert not any(f"{field}=" in table.text for field in ("bias", "position_query", "embedding_map", "refused"))
    assert "embedding_map='up'" in replace(table, embedding_map="up").text


def test_every_role_of_an_axis_has_a_rule_by_which_its_entries_are_chosen():
    tables = [family.weights for family in FAMILIES.values() if isinstance(family.weights, ChannelFamily)]
    assert tables
    for table in tables:
        assert {role for roles in table.axes.values() for role in roles} <= set(SELECTIONS)


@torch.no_grad()
@pytest.mark.parametrize("layers", [None, [2, 0, 1]])
def test_a_student_by_the_users_own_table_computes_what_its_teacher_does(example, layers):
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


class Rows(nn.Module):
    """The example's encoder, with or without what a family may lack."""

    def __init__(self, width=WIDTH, *, first=False, final=False, rows_bias=True, bias=True) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width, bias=rows_bias)
        self.positions = nn.Parameter(torch.zeros(1, 8, width))
        layer = nn.TransformerEncoderLayer(width, 2, 24, batch_first=True, norm_first=first, bias=bias)
        norm = nn.LayerNorm(width) if final else None
        self.encoder = nn.TransformerEncoder(layer, DEPTH, norm=norm, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, digits):
        return self.head(self.encoder(self.rows(digits) + self.positions).mean(dim=1))


def table(example, **options):
    return replace(
        example.ENCODER,
        norm_position="before" if options.get("first") else "after",
        final_norm="encoder.norm" if options.get("final") else None,
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("teacher", "student", "kind"),
    [
        ({"rows_bias": False}, {"rows_bias": False}, PERMUTATION),
        ({"final": True}, {"final": True}, SELECTION),
        ({"bias": False}, {"bias": False}, SELECTION),
        ({"first": True, "final": True, "bias": False}, {"first": True, "final": True}, KEEPS_CONSTANT),
        ({"first": True}, {"first": True}, KEEPS_CONSTANT),
        ({"first": True, "final": True}, {"first": True, "final": True}, KEEPS_CONSTANT),
    ],
)
def test_a_family_may_lack_biases_and_a_norm_in_the_end(example, teacher, student, kind):
    teacher_model, student_model = randomised(Rows(**teacher), 1), randomised(Rows(**student), 2)
    initialize_from_teacher(student_model, teacher_model, square_subspace(kind), family=table(example, **teacher))
    digits = torch.randn(5, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with plain_forward(student_model):
        assert float((student_model(digits) - teacher_model(digits)).abs().max()) < EXACT


@pytest.mark.parametrize(
    ("options", "embeddings", "reason"),
    [
        ({"final": True}, ("rows", "positions"), "a norm after its last block"),
        ({"bias": False}, ("rows", "positions"), "maps or norms without bias in its blocks"),
        ({"rows_bias": False}, ("rows",), "neither norm nor bias in its embeddings"),
    ],
)
def test_a_mean_that_cannot_be_absorbed_is_refused_and_a_search_does_not_subtract_it(
    example, options, embeddings, reason
):
    teacher, student = Rows(**options), Rows(**options)
    family = replace(table(example, **options), embeddings=embeddings)
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(student, teacher, square_subspace(PERMUTATION), family=family)
    assert str(error.value) == (
        f"a family with {reason} needs a subspace of mean zero, but this one has a mean; use decompose(..., "
        'centring="none").'
    )
    search = {"search_space": {"any": [0]}, "metrics": ["loss"]}
    config = {"search": search, "regular_distillation": {"train_steps": 1}, "init": {"family": family}}
    batch = (torch.randn(8, 8, 8), torch.zeros(8, dtype=torch.long))
    distil = Distiller(teacher, AutoDistillationConfig.load(config), [batch], torch.device("cpu"))
    distil.resolve(student)
    assert not distil.initializer.subspace(student).means.any()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of peft
def test_a_model_is_at_its_own_path_in_a_wrapper_that_passes_attributes_on() -> None:
    model = hugging_face("BertModel", **BERT_LIKE)(8, 1)
    wrapper = get_peft_model(model, LoraConfig(r=2, target_modules=["query"]))
    path, base, _ = family_of(wrapper) or (None, None, None)
    assert path == "base_model.model"
    assert base is model
