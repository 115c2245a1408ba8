"""The table of built-in metrics, read without any tensor library."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import autodistill
from autodistill.metrics.built_in import BUILT_IN, needing


@dataclass(frozen=True)
class Counted:
    """A student with fixed quantities."""

    latency: float = 2.0
    teacher_latency: float = 9.0
    parameters: int = 30
    flops: float = 60.0
    size_in_bytes: int = 120


def test_every_metric_is_computed_from_quantities_of_any_framework() -> None:
    assert {name: metric.value(Counted()) for name, metric in BUILT_IN.items()} == {
        "latency": 2.0,
        "speedup": 4.5,
        "parameters": 30.0,
        "flops": 60.0,
        "size_mb": 0.00012,
    }
    assert all(type(metric.value(Counted())) is float for metric in BUILT_IN.values())


def test_metric_that_needs_a_teacher_names_one_that_needs_none() -> None:
    for metric in needing("teacher", BUILT_IN):
        assert "teacher" not in BUILT_IN[metric.alternative].needs


def test_metrics_that_need_an_example_or_a_teacher_are_found_among_others() -> None:
    names = ["accuracy", "flops", "speedup", "parameters", "latency"]
    assert [metric.name for metric in needing("example", names)] == ["flops", "speedup", "latency"]
    assert [metric.name for metric in needing("teacher", names)] == ["speedup"]


def test_metrics_known_untrained_are_the_counted_ones() -> None:
    assert [name for name, metric in BUILT_IN.items() if metric.known_untrained] == ["parameters", "flops", "size_mb"]


WITHOUT_THE_PACKAGE = """
import importlib, sys, types
package = types.ModuleType("autodistill")  # replaces autodistill/__init__.py, which may import more
package.__path__ = [sys.argv[1]]
sys.modules["autodistill"] = package
importlib.import_module(sys.argv[2])
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("module", ["built_in", "metric", "pareto"])
def test_table_metric_and_pareto_front_load_no_torch(module: str) -> None:
    folder = str(Path(autodistill.__file__).parent)
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, folder, f"autodistill.metrics.{module}"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "False"
