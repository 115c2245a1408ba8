"""Layers by name: module paths, taps on their outputs, and mappings from a student's layers to a teacher's.

A *tap* names one tensor inside a model: the output of a module, or a part of it. A *layer mapping* pairs a tap of the
student with a tap of the teacher. `layer_mappings` parses every form that a configuration may use.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.calls import StopForwardError, first_keyword
from autodistill.models.module_paths import find_module

OutputProcess = str | Callable[[Any], torch.Tensor]


AUTO = "auto"
"""The output process of automatic mappings: the output itself if it is a tensor, else its `logits` if it has them,
else its first element or field, which is what a block passes on."""


INPUT = "input"
"""The output process that takes a module's input instead of its output: its first argument."""


CHANNELS_LAST = "channels_last"
"""The output process of image features that a module returns as (N, H, W, C): they are read as (N, C, H, W)."""


@dataclass(frozen=True)
class Tap:
    """One tensor inside a model: the output of the module at `path`, or the part of it that `process` selects.

    Args:
        path: the module's dotted name as in `model.named_modules()`; `""` is the model itself.
        process: `""` takes the output as it is, a numeric string indexes a tuple, `"auto"` takes the main part (see
            `AUTO`), `"input"` the module's first argument, `"channels_last"` turns (N, H, W, C) into (N, C, H, W), any
            other string is a key or an attribute of the output, a callable maps the output to a tensor.
    """

    path: str
    process: OutputProcess = ""

    def __str__(self) -> str:
        name = f"'{self.path}'" if self.path else "the model's output"
        if self.process == "":
            return name
        process = self.process if isinstance(self.process, str) else process_name(self.process)
        return f"{name}[{process}]"

    @property
    def selects_a_part(self) -> bool:
        """Whether the tap is one part of an output, selected by an index or a key."""
        return isinstance(self.process, str) and self.process not in ("", AUTO, INPUT, CHANNELS_LAST)

    def is_absent(self, output: Any) -> bool:
        """Whether the tap selects a part of a module's output that is None: one that the model did not compute."""
        with contextlib.suppress(ConfigurationError):
            return self._part(output) is None
        return False

    def extract(self, output: Any) -> torch.Tensor:
        """The tensor that this tap names, from the output of its module or, for `"input"`, its first argument.

        Raises:
            ConfigurationError: the output has no such part, or the part is not a tensor.
        """
        part = self._part(output)
        if part is None:
            raise ConfigurationError(
                f"{self} is None: the model does not compute it. Attention probabilities are computed only by "
                'the plain attention: load the model with attn_implementation="eager".'
            )
        if not isinstance(part, torch.Tensor):
            raise ConfigurationError(
                f"a mapped layer must return a tensor, but {self} returns {describe(part)}; "
                "select a part of it, e.g. ('path', '0') for the first element of a tuple."
            )
        return part

    def _part(self, output: Any) -> Any:
        if callable(self.process):
            return self.process(output)
        if self.process in ("", INPUT):
            return output
        if self.process == AUTO:
            return main_part(output)
        if self.process == CHANNELS_LAST and isinstance(output, torch.Tensor) and output.dim() == 4:
            return output.movedim(-1, 1)
        try:
            if self.process.isdigit():
                if isinstance(output, torch.Tensor):
                    raise TypeError
                return output[int(self.process)]
            return output[self.process] if isinstance(output, Mapping) else getattr(output, self.process)
        except (IndexError, KeyError, TypeError, AttributeError):
            path = f"'{self.path}'" if self.path else "the model"
            raise ConfigurationError(
                f"the output process {self.process!r} must select a part of what {path} returns, "
                f"but it returns {describe(output)}; use '' for the output as it is."
            ) from None


def main_part(output: Any) -> Any:
    """The main part of a model's output: see `AUTO`.

    Examples:
        >>> main_part({"loss": 0.5, "logits": "these"}), main_part(("hidden states", None))
        ('these', 'hidden states')
    """
    if isinstance(output, torch.Tensor):
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        return output["logits"] if "logits" in output else next((v for k, v in output.items() if k != "loss"), None)
    return output[0] if isinstance(output, tuple | list) and output else output


def any_absent(model: nn.Module, taps: Iterable[Tap], forward: Callable[[], Any]) -> bool:
    """Whether one of the taps selects a part that is None in a forward of the model."""
    absent: list[Tap] = []
    with contextlib.ExitStack() as hooks:
        for tap in taps:

            def record(module: nn.Module, args: Any, output: Any, tap: Tap = tap) -> None:
                if tap.is_absent(output):
                    absent.append(tap)

            hooks.callback(find_module(model, tap.path).register_forward_hook(record).remove)
        forward()
    return bool(absent)


def returned_loss(output: Any) -> torch.Tensor | None:
    """The loss that a model returned; None if it returned none.

    Examples:
        >>> returned_loss({"loss": 0.5, "logits": None}), returned_loss(torch.zeros(2))
        (0.5, None)
    """
    loss: torch.Tensor | None = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return loss


def process_name(process: Callable[..., Any]) -> str:
    """A callable's name for messages and records."""
    return f"{getattr(process, '__module__', '?')}.{getattr(process, '__qualname__', repr(process))}"


def describe(value: Any) -> str:
    """What a module returned, in words: `a tuple of 2`, `a tensor of shape (8, 64)`."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


class TapRecorder:
    """Records the features at a model's taps during a forward pass; a context manager that removes its hooks.

    A feature is what the module returned at that moment, even if the model changes it in place later. If a module runs
    several times in one forward, its last run is recorded.

    Args:
        model: the model that runs.
        taps: what to record.
        owner: the name of the model in messages.
        stop: end the forward as soon as every tap has been recorded and every module of `also_run` has run; correct
            only if each of them runs once.
        also_run: paths of modules that must have run before a forward is stopped.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Iterable[Tap],
        *,
        owner: str = "model",
        stop: bool = False,
        also_run: Iterable[str] = (),
    ) -> None:
        self.calls: dict[str, int] = {}
        self.stop = stop
        self._features: dict[Tap, torch.Tensor] = {}
        self._owner = owner
        self._taps: dict[str, list[Tap]] = {path: [] for path in also_run}
        self.taps = tuple(dict.fromkeys(taps))
        for tap in self.taps:
            self._taps.setdefault(tap.path, []).append(tap)
        self._modules = {path: find_module(model, path, owner) for path in self._taps}
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> TapRecorder:
        for path, module in self._modules.items():
            self._hooks.callback(module.register_forward_hook(self._hook(path)).remove)
            if any(tap.process == INPUT for tap in self._taps[path]):
                self._hooks.callback(module.register_forward_pre_hook(self._before(path), with_kwargs=True).remove)
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()

    def _before(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tap = Tap(path, INPUT)
            argument = args[0] if args else kwargs[first_keyword(module, kwargs)]
            self._features[tap] = tap.extract(argument).clone()  # the module may change it in place

        return record

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            self.calls[path] = self.calls.get(path, 0) + 1
            ends = self.stop and len(self.calls) == len(self._taps)
            for tap in self._taps[path]:
                if tap.process != INPUT:
                    feature = tap.extract(output)
                    self._features[tap] = feature if ends else feature.clone()
            if ends:
                raise StopForwardError

        return record

    def run(self, forward: Callable[[], Any]) -> dict[Tap, torch.Tensor]:
        """The features of one forward pass; the recorder keeps none of them."""
        self._features, self.calls = {}, {}
        with contextlib.suppress(StopForwardError):
            forward()
        return self.collect()

    def collect(self) -> dict[Tap, torch.Tensor]:
        """The features of the last forward pass; the recorder keeps none of them.

        Raises:
            ConfigurationError: a mapped layer has not run.
        """
        missing = [
            path
            for path, taps in self._taps.items()
            if path not in self.calls or any(tap not in self._features for tap in taps)
        ]
        if missing:
            raise ConfigurationError(
                f"a mapped layer must run in the forward pass, but the {self._owner} never calls "
                f"{', '.join(map(repr, missing))}."
            )
        features, self._features = self._features, {}
        return features
