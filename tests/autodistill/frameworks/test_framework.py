"""The protocol of a framework, and its implementation."""

from __future__ import annotations

from protocols import differences, signatures

from autodistill.frameworks.framework import Framework
from autodistill.frameworks.pytorch import PyTorchFramework


def test_pytorch_has_every_method_of_the_protocol_with_the_same_parameters() -> None:
    assert {"build", "evaluate", "measure", "save", "load"} <= signatures(Framework).keys()
    assert differences(PyTorchFramework, Framework) == {}


def test_method_that_is_missing_or_has_other_parameters_is_found() -> None:
    class Incomplete(PyTorchFramework):
        load = None  # type: ignore[assignment]

        def build(self, sizes: object) -> object:  # type: ignore[override]
            return sizes

    assert differences(Incomplete, Framework) == {"load": [], "build": ["self", "sizes"]}
