"""Phases run in order, each on the model of the one before it."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import Transformer

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.standalone.scheduler import Scheduler
from autodistill.training import TrainingContext

SEARCH = {"search_space": {"width": [8]}, "metrics": ["loss"]}


def distiller(**sections) -> Distiller:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(4, 5, 8, generator=generator), torch.zeros(4, dtype=torch.long)) for _ in range(2)]
    config = AutoDistillationConfig.load({"search": SEARCH} | sections)
    torch.manual_seed(1)
    return Distiller(Transformer(12, 4), config, data, torch.device("cpu"))


def test_flash_and_regular_distillers_combined_equal_one_distiller() -> None:
    flash, regular = {"flash_distillation": {"train_steps": 3}}, {"regular_distillation": {"train_steps": 3}}
    model = Transformer(8, 2)
    expected = distiller(**flash, **regular).train(copy.deepcopy(model), TrainingContext(seed=4)).model
    scheduler = Scheduler(seed=4)
    scheduler.combine(distiller(**flash), distiller(**regular))
    assert scheduler(model) is model
    for actual, reference in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(actual, reference)


def test_functions_may_train_in_place_or_return_another_model() -> None:
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    received = []
    scheduler = Scheduler()
    scheduler.model = first
    scheduler.combine(received.append)
    scheduler.combine(lambda model: second, received.append)
    assert scheduler() is second
    assert received == [first, second]


def test_missing_parts_and_other_values_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no model; pass it to Scheduler"):
        Scheduler()()
    with pytest.raises(ConfigurationError, match="has no phase; call combine first"):
        Scheduler(torch.nn.Linear(1, 1))()
    with pytest.raises(ConfigurationError, match=r"a phase is a Distiller or a function .*, but got int"):
        Scheduler().combine(3)
    scheduler = Scheduler(torch.nn.Linear(1, 1))
    scheduler.combine(lambda model: 3)
    with pytest.raises(ConfigurationError, match=r"a phase returns the trained model, .* but returned int"):
        scheduler()
