"""On a GPU: the engine equals the naive loop, mixed precision trains, and a search uses the device by itself."""

from __future__ import annotations

import math

import pytest
import torch
from naive_distillation import distil_both_ways, make_distiller
from small_models import ConvolutionalNetwork, Transformer
from toy_search import make_config, make_search

from autodistill.training import TrainingContext

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def tokens(batches=4):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(6, 5, 8, generator=generator), torch.randint(0, 10, (6,), generator=generator))
        for _ in range(batches)
    ]


def images(batches=4):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 1, 8, 8, generator=generator), torch.zeros(4, dtype=torch.long)) for _ in range(batches)]


@pytest.mark.parametrize(
    ("teacher", "student", "data"),
    [
        (lambda: Transformer(16, 4), lambda: Transformer(12, 3), tokens),
        (lambda: ConvolutionalNetwork(8, 4), lambda: ConvolutionalNetwork(4, 4), images),
    ],
    ids=["transformer", "convolutions"],
)
def test_the_engine_equals_the_naive_loop_on_the_gpu(teacher, student, data):
    torch.manual_seed(0)
    distiller = make_distiller(teacher().cuda(), data(), device="cuda")
    engine, naive, records = distil_both_ways(student().cuda(), distiller)
    assert {record.mode for record in records} == {"replay"}
    for (name, a), (_, b) in zip(engine.state_dict().items(), naive.state_dict().items(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name  # backward passes may add in another order


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_on_the_gpu(precision):
    torch.manual_seed(0)
    distiller = make_distiller(Transformer(16, 4).cuda(), tokens(), device="cuda", mixed_precision=precision)
    records = distiller.train(Transformer(12, 3).cuda(), TrainingContext(seed=0)).stages
    assert all(math.isfinite(record.last_loss) for record in records)
    assert records[0].last_loss < records[0].first_loss


def test_a_search_runs_on_the_gpu_by_itself(tmp_path):
    config = make_config(metrics=["accuracy", "latency", "parameters"], max_trials=2)
    search = make_search(
        tmp_path / "search",
        config,
        device="auto",
        eval_func=lambda student: {"accuracy": float(next(student.parameters()).device.type == "cuda")},
    )
    search.search_loop()
    assert [trial.metrics["accuracy"] for trial in search.search_result] == [1.0, 1.0]
    assert next(search.best_model().parameters()).device.type == "cuda"
