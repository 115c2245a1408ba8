"""`compile=True` trains through `torch.compile` and leaves the student as training without it does."""

from __future__ import annotations

import copy
import functools
import logging

import pytest
import torch
from small_models import Transformer

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.training import TrainingContext

COMPILED = {"compile": True}


@pytest.fixture
def graphs(monkeypatch):
    """Compiled code runs as it is traced, without a compiler; the graphs that were traced."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return seen


def distil(phases, *, widths=(8, 8), **flags):
    """A student of two blocks, distilled with further settings in every phase."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = Transformer(widths[1], 2), Transformer(widths[0], 2)
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(4, 5, 8, generator=generator), torch.randint(0, 10, (4,), generator=generator)) for _ in range(3)
    ]
    config = AutoDistillationConfig.load(
        {"search": {"search_space": {"width": [8]}, "metrics": ["loss"]}}
        | {name: {"train_steps": 4, **settings, **flags} for name, settings in phases.items()}
    )
    student = copy.deepcopy(student)
    records = Distiller(teacher, config, data, torch.device("cpu")).train(student, TrainingContext(seed=0)).stages
    return student, records


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"flash_distillation": {}}, 2),
        ({"flash_distillation": {"inputs": "teacher"}}, 1),  # one graph serves blocks of one form
        ({"regular_distillation": {}}, 1),
    ],
    ids=["replayed blocks", "teacher-fed blocks", "the whole student"],
)
def test_trained_modules_are_compiled_and_have_the_same_weights(phases, expected, graphs):
    plain, _ = distil(phases)
    assert graphs == []
    student, _ = distil(phases, **COMPILED)
    assert len(graphs) >= expected
    for name, weight in student.state_dict().items():
        torch.testing.assert_close(weight, plain.state_dict()[name], msg=name)
    assert not any("forward" in vars(module) for module in student.modules())


@pytest.mark.parametrize(
    ("phases", "block"),
    [
        (
            {
                "flash_distillation": {
                    "block_names": ["layers.0"],
                    "layer_mappings_for_knowledge_transfer": [[("layers.0.linear1", "layers.0.linear1")]],
                }
            },
            "'layers.0'",
        ),
        ({"regular_distillation": {"layer_mappings_for_knowledge_transfer": [("layers.0", "layers.0")]}}, "''"),
    ],
    ids=["replayed block", "the whole student"],
)
def test_a_module_around_a_mapped_layer_is_not_compiled_and_the_reason_is_logged(phases, block, graphs, caplog):
    with caplog.at_level(logging.INFO):
        distil(phases, **COMPILED)
    assert graphs == []
    assert f"{block} is not compiled, since layers inside it are mapped: 'layers.0" in caplog.text


def test_the_students_own_forward_is_restored_also_after_an_error(monkeypatch):
    def fails(graph, inputs):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=fails))
    built = []
    forward = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda self, tokens: built.append(self) or forward(self, tokens))
    with pytest.raises(Exception, match="no compiler"):
        distil({"regular_distillation": {}}, **COMPILED)
    assert built
    assert not any("forward" in vars(module) for model in built for module in model.modules())
