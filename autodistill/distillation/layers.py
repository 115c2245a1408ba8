"""Layers by name: module paths, taps on their outputs, and mappings from a student's layers to a teacher's.

A *tap* names one tensor inside a model: the output of a module, or a part of it. A *layer mapping* pairs a tap of the
student with a tap of the teacher. Everything that a configuration may write for one is normalised here, at once.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.errors import ConfigurationError, LayerNotFoundError

OutputProcess = str | Callable[[Any], torch.Tensor]

AUTO = "auto"
"""The output process of automatic mappings: the output itself if it is a tensor, its logits where it names them so,
else its first element, which is what a block passes on."""

INPUT = "input"
"""The output process of what goes into a module instead of what comes out: its first argument."""

CHANNELS_LAST = "channels_last"
"""The output process of image features that a module gives as (N, H, W, C): they are read as (N, C, H, W)."""


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

    def extract(self, output: Any) -> torch.Tensor:
        """The tensor that this tap names, out of what its module returned or, for `"input"`, its first argument.

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
                f"a mapped layer must give a tensor, but {self} gives {describe(part)}; "
                "name the part you mean, e.g. ('path', '0') for the first element of a tuple."
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
    """What a model's output is about: see `AUTO`.

    Examples:
        >>> main_part({"loss": 0.5, "logits": "these"}), main_part(("hidden states", None))
        ('these', 'hidden states')
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        return output["logits"] if "logits" in output else next((v for k, v in output.items() if k != "loss"), None)
    return output[0] if isinstance(output, tuple | list) and output else output


@dataclass(frozen=True)
class LayerMapping:
    """A tap of the student and the tap of the teacher that it is to match."""

    student: Tap
    teacher: Tap

    def __str__(self) -> str:
        return f"student {self.student} -> teacher {self.teacher}"


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


def parse_mapping(spec: Any) -> LayerMapping:
    """Normalise one layer mapping.

    Accepted: `('s', 't')`, `('s', '1', 't', '1')`, `[('s', '1'), ('t', '1')]`, and `('s',)` or `[('s',)]` where
    student and teacher use the same name; an output process may also be a callable.

    Raises:
        ConfigurationError: `spec` has none of these forms.

    Examples:
        >>> print(parse_mapping(('encoder.0', 'encoder.5')))
        student 'encoder.0' -> teacher 'encoder.5'
        >>> parse_mapping([('s', '1'), ('t', '1')]) == parse_mapping(('s', '1', 't', '1'))
        True
        >>> print(parse_mapping([('encoder',)]))
        student 'encoder' -> teacher 'encoder'
    """
    match spec:
        case LayerMapping():
            return spec
        case [str(path)] | [[str(path)]]:
            return LayerMapping(Tap(path), Tap(path))
        case [str(student), str(teacher)]:
            return LayerMapping(Tap(student), Tap(teacher))
        case [[str(student), *student_process], [str(teacher), *teacher_process]] if (
            len(student_process) <= 1 and len(teacher_process) <= 1
        ):
            return LayerMapping(
                Tap(student, *(_checked(process, spec) for process in student_process)),
                Tap(teacher, *(_checked(process, spec) for process in teacher_process)),
            )
        case [str(student), student_process, str(teacher), teacher_process]:
            return LayerMapping(
                Tap(student, _checked(student_process, spec)), Tap(teacher, _checked(teacher_process, spec))
            )
    raise ConfigurationError(
        "a layer mapping is ('student layer', 'teacher layer'), each layer optionally followed by its output process, "
        f"but got {spec!r}."
    )


def _checked(process: Any, spec: Any) -> OutputProcess:
    if isinstance(process, int) and not isinstance(process, bool):
        return str(process)
    if isinstance(process, str):
        return process
    if callable(process):
        function: OutputProcess = process
        return function
    raise ConfigurationError(
        f"an output process is '', a numeric string, a key or a callable, but got {process!r} in {spec!r}."
    )


def find_module(model: nn.Module, path: str, owner: str = "model") -> nn.Module:
    """The submodule at `path`; whole components only, so `layer.1` never finds `layer.10`.

    Raises:
        LayerNotFoundError: there is none; the message names the nearest existing ones.
    """
    module: nn.Module | None = model
    for name in path.split(".") if path else ():
        module = module._modules.get(name) if module is not None else None
    if module is not None:
        return module
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    nearest = difflib.get_close_matches(path, modules, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(name) for name in nearest)}?" if nearest else "."
    if not nearest:
        children = [name for name, _ in model.named_children()]
        hint = f"; its layers begin with {', '.join(map(repr, children)) or 'nothing: it has no submodules'}."
    raise LayerNotFoundError(f"the {owner} ({type(model).__name__}) has no layer {path!r}{hint}")


def is_inside(path: str, block: str) -> bool:
    """Whether `path` is `block` or lies below it.

    Examples:
        >>> is_inside("layer.1.output", "layer.1"), is_inside("layer.10", "layer.1")
        (True, False)
    """
    return not block or path == block or path.startswith(block + ".")


def last_of_their_siblings(paths: Sequence[str]) -> list[str]:
    """The paths that are followed by a path elsewhere in the model, as the last block of an encoder by its decoder's.

    Examples:
        >>> last_of_their_siblings(["encoder.0", "encoder.1", "decoder.0", "decoder.1"])
        ['encoder.1']
    """
    return [path for path, after in itertools.pairwise(paths) if path.rpartition(".")[0] != after.rpartition(".")[0]]


def first_keyword(module: nn.Module, kwargs: Mapping[str, Any]) -> str:
    """The name under which a call without positional arguments gives a module its first argument.

    Raises:
        ConfigurationError: the call has no arguments at all.

    Examples:
        >>> first_keyword(nn.Bilinear(2, 3, 4), {"input2": 0, "input1": 1})
        'input1'
    """
    parameters = inspect.signature(module.forward).parameters
    name = next((name for name in (*parameters, *kwargs) if name in kwargs), None)
    if name is None:
        raise ConfigurationError(
            f"a module's input is its first argument, but {type(module).__name__} is called without any."
        )
    return name


class StopForwardError(Exception):
    """Ends a forward pass on purpose, once everything asked of it has been seen."""


class TapRecorder:
    """Records what the taps of a model see during a forward pass; a context manager that removes its hooks.

    A feature is what the module returned at that moment, also where the model changes it in place later. A module that
    runs several times in one forward is recorded the last time.

    Args:
        model: the model that runs.
        taps: what to record.
        owner: what to call the model in messages.
        stop: end the forward as soon as every tap has been seen and every module of `also_run` has run; right only
            where each of them runs once.
        also_run: paths of modules that a stopped forward must have run through.
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
            given = args[0] if args else kwargs[first_keyword(module, kwargs)]
            self._features[tap] = tap.extract(given).clone()  # the module may change it in place

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
        """The features of the last forward pass since they were collected; the recorder keeps none of them.

        Raises:
            ConfigurationError: some mapped layer has not run.
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


def repeated_blocks(model: nn.Module) -> list[str]:
    """The paths of the model's repeated blocks: the sibling modules of one class that hold the most parameters.

    Blocks are the children of one `ModuleList` (one child is enough: a model of depth 1) or of one `Sequential` (two
    at least, those that follow each other if any do).

    Raises:
        ConfigurationError: the model has no such container.

    Examples:
        >>> encoder = nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> repeated_blocks(nn.TransformerEncoder(encoder, 3, enable_nested_tensor=False))
        ['layers.0', 'layers.1', 'layers.2']
    """
    candidates = list(_siblings(model))
    if not candidates:
        raise ConfigurationError(
            f"automatic mapping needs a ModuleList or Sequential of like blocks, but {type(model).__name__} has none; "
            "give block_names and layer_mappings_for_knowledge_transfer."
        )
    return max(
        candidates,
        key=lambda paths: sum(p.numel() for path in paths for p in find_module(model, path).parameters()),
    )


def _siblings(model: nn.Module) -> Iterator[list[str]]:
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        children = [
            (type(child), f"{path}.{name}" if path else name)
            for name, child in module.named_children()
            if any(True for _ in child.parameters())
        ]
        by_class: dict[type, list[str]] = {}
        for kind, name in children:
            by_class.setdefault(kind, []).append(name)
        if isinstance(module, nn.ModuleList):
            yield from by_class.values()
            continue
        runs = [[name for _, name in run] for _, run in itertools.groupby(children, key=lambda child: child[0])]
        # a first and a last layer of one class with the blocks between them are no blocks
        yield from [run for run in runs if len(run) > 1] or [paths for paths in by_class.values() if len(paths) > 1]


def automatic_mapping(student_blocks: int, teacher_blocks: int) -> list[int]:
    """The teacher block that each student block is to match: block i of n gets block `ceil((i + 1) * m / n) - 1` of m.

    The last student block always meets the last teacher block.

    Examples:
        >>> automatic_mapping(4, 12)
        [2, 5, 8, 11]
        >>> automatic_mapping(4, 6)
        [1, 2, 4, 5]
    """
    return [-(-(i + 1) * teacher_blocks // student_blocks) - 1 for i in range(student_blocks)]
