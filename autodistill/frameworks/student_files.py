"""Trained students on disk: their tensors and architecture, with the model's own `save_pretrained` if it has one.

A student is loaded into the model that `model_builder` returns for its architecture, so that it is the model that was
measured, whatever `model_builder` changed in it after it was constructed.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from autodistill.errors import ConfigurationError, SearchDirectoryError, TrialError
from autodistill.files import replacing
from autodistill.json_files import read_json, write_json
from autodistill.randomness import isolated_random_state
from autodistill.tensor_files import write_tensors
from autodistill.tensors import identical
from search_spaces import Architecture

ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Which file holds which tensor, if `save_pretrained` writes several."""

ADAPTERS_FILE = "adapter_config.json"
"""The settings of adapters, which name the model that they belong to; `from_pretrained` would load it from there."""

OWN_WEIGHTS_FILE = "student.safetensors"
"""The tensors that `save_pretrained` did not write, or wrote under other names."""

DESCRIPTION_FILE = "student.json"
"""What `save_pretrained` does not record: the class of the student, its modules, and the files of its tensors."""

TRUSTED = ("autodistill", "transformers")
"""The packages of which a module is imported because a file names it; others must have been imported by the program."""

Shapes = Mapping[str, tuple[int, ...] | None]
"""The shape of each tensor of a model by its name; None for one whose shape its first input determines."""

_COMPILED = "_orig_mod."  # what `torch.compile` inserts into the names of a module's tensors


def save_student(student: nn.Module, architecture: Architecture, directory: Path) -> None:
    """Write a student into its own directory, completely or not at all; an earlier one is replaced.

    Args:
        student: its `save_pretrained` is used if it has one (transformers models), and what this leaves out is written
            to `student.safetensors`; otherwise all tensors are written to `model.safetensors`.
        architecture: written to the same directory as `architecture.json`.
        directory: created by this function, in a folder that exists.

    Raises:
        TrialError: the state of the student contains something other than tensors.
        Exception: any exception of the student's `save_pretrained`.
    """
    student = _unwrapped(student)
    tensors = _without_aliases(_tensors(student))
    with replacing(directory) as temporary:
        temporary.mkdir()
        if _is_pretrained(student):
            student.save_pretrained(temporary)  # type: ignore[operator]
            _describe(student, tensors, temporary)
        else:
            _write(tensors, temporary / WEIGHTS_FILE)
        write_json(temporary / ARCHITECTURE_FILE, architecture)


def load_student(student: nn.Module, directory: Path) -> nn.Module:
    """The student that was saved, in eval mode.

    Args:
        student: a new model of the saved architecture, into which the tensors are loaded; it takes their precision.
        directory: in which `save_student` wrote it.

    Raises:
        ConfigurationError: the tensors are those of a model of another structure.
        SearchDirectoryError: a file is missing or damaged.
    """
    model = _unwrapped(student)
    with _reading(directory):
        saved = _saved(directory) if (directory / DESCRIPTION_FILE).exists() else _saved_undescribed(model, directory)
    saved, problems = _matched(model, saved)
    if problems:
        raise ConfigurationError(
            f"a student is loaded into what model_builder returns for its architecture, but {'; '.join(problems)} in "
            f"{directory}; load it with the model_builder with which it was trained."
        )
    for name, tensor in _parameters_and_buffers(model):
        if name in saved and not is_lazy(tensor) and tensor.dtype != saved[name].dtype:
            tensor.data = tensor.data.to(saved[name].dtype)  # train_func may have changed the precision
    actual = {_plain(name): name for name in model.state_dict()}
    model.load_state_dict({actual[name]: tensor for name, tensor in saved.items() if name in actual}, strict=False)
    for name, buffer in model.named_buffers():
        if _plain(name) not in actual and _plain(name) in saved:  # not part of the state dict
            buffer.copy_(saved[_plain(name)])
    return student.eval()


def tensor_shapes(student: nn.Module) -> Shapes:
    """The names and shapes of the tensors of a student; a tied weight has one name.

    Examples:
        >>> tensor_shapes(nn.Linear(3, 2))
        {'weight': (2, 3), 'bias': (2,)}
    """
    return _shapes(_without_aliases(_tensors(_unwrapped(student))))


def shape_problems(built: Shapes, trained: Shapes) -> list[str]:
    """The differences between the tensors of two models: which are missing, unexpected, or of another shape.

    Args:
        built: of the model into which a student is loaded.
        trained: of the student.

    Examples:
        >>> shape_problems(tensor_shapes(nn.Linear(3, 2)), tensor_shapes(nn.Linear(4, 2, bias=False)))
        ["'bias' is missing", "'weight' is (2, 4), not (2, 3)"]
    """
    missing = [name for name in built if name not in trained]
    unexpected = [name for name in trained if name not in built]
    reshaped = [
        f"{name!r} is {trained[name]}, not {shape}"
        for name, shape in built.items()
        if name in trained and None not in (shape, trained[name]) and trained[name] != shape
    ]
    return [
        *([f"{_shown(missing)} missing"] if missing else []),
        *([f"{_shown(unexpected)} unexpected"] if unexpected else []),
        *reshaped[:3],
    ]


def reload_problems(directory: Path) -> list[str]:
    """The differences between a saved student and the model that `from_pretrained` of its class loads from its folder.

    There are some if `model_builder` or the training changed the model in a way that its configuration does not record,
    such as another activation, fewer layers, another head or an adapter.

    Args:
        directory: in which `save_student` wrote a student with `save_pretrained`.

    Raises:
        SearchDirectoryError: a file is missing or damaged.
    """
    with _reading(directory):
        description = read_json(directory / DESCRIPTION_FILE)
        module, name = map(_text, description["class"])
        tensors, expected = _saved(directory), dict(description["modules"])
        _ensure_in(directory, _library_files(directory))  # the library follows the names in an index, too
    if (directory / ADAPTERS_FILE).exists():
        return ["it has adapters, of a model that may be elsewhere"]
    if module not in sys.modules and module.partition(".")[0] not in TRUSTED:
        return [f"its class {module}.{name} has not been imported"]
    try:
        cls = attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError):
        return [f"its class {module}.{name} cannot be imported"]
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        return [f"its class {module}.{name} is no class of models"]
    try:
        with isolated_random_state(0):
            loaded = cls.from_pretrained(directory)  # type: ignore[attr-defined]
    except Exception as error:
        return [f"{name}.from_pretrained raises {type(error).__name__}: {str(error).splitlines()[0]}"]
    saved, problems = _matched(loaded, tensors)
    if problems:
        return problems
    modules = _modules(loaded)
    problems += [
        f"{path or 'the model'!r} becomes {modules.get(path, 'nothing')} instead of {expected.get(path, 'nothing')}"
        for path in {**expected, **modules}
        if modules.get(path) != expected.get(path)
    ][:3]
    other = [name for name, tensor in _tensors(loaded).items() if not identical(tensor.cpu(), saved[name])]
    return [*problems, *([f"{_shown(other)} different"] if other else [])]


def _is_pretrained(student: nn.Module) -> bool:
    return hasattr(student, "save_pretrained") and hasattr(type(student), "from_pretrained")


def _unwrapped(student: nn.Module) -> nn.Module:
    """The model inside the wrappers of `torch.compile` and of data-parallel training."""
    while True:
        inner = getattr(student, "_orig_mod", None)
        if isinstance(student, DataParallel | DistributedDataParallel):
            inner = student.module
        if inner is None:
            return student
        student = inner


def _plain(name: str) -> str:
    """The name of a tensor or module in the model without compiled modules."""
    return name.replace(_COMPILED, "")


# --- the tensors of a model ---


def _parameters_and_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer, once for each of its names."""
    named = (model.named_parameters, model.named_buffers)
    for name, tensor in itertools.chain.from_iterable(method(remove_duplicate=False) for method in named):
        yield _plain(name), tensor


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, and the buffers that are not part of it."""
    state: dict[str, Any] = {_plain(name): value for name, value in model.state_dict().items()}
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise TrialError(
            f"the state of a student must consist of tensors to be saved, but {_shown(others)} "
            "not; return tensors from get_extra_state, or do not keep students (keep='none')."
        )
    buffers = {_plain(name): buffer for name, buffer in model.named_buffers(remove_duplicate=False)}
    return state | {name: buffer for name, buffer in buffers.items() if name not in state}


def _shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    return {name: None if is_lazy(tensor) else tuple(tensor.shape) for name, tensor in tensors.items()}


def _same_memory(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The names grouped by tensor: tied weights have several names."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        empty = is_lazy(tensor) or not tensor.numel() or tensor.layout != torch.strided
        key = name if empty else (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {names[0]: tensors[names[0]] for names in _same_memory(tensors)}


def _matched(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The saved tensors with an entry for each name of a tied weight, and why they do not fit the model, if so."""
    own, matched, problems = _tensors(model), dict(saved), []
    for names in _same_memory(own):
        present = [name for name in names if name in saved]
        if any(not identical(saved[present[0]], saved[name]) for name in present[1:]):
            problems.append(f"{_shown(present)} one tensor in the model and several")
        if present:
            matched |= {name: saved[present[0]] for name in names if name not in saved}
    # An earlier version did not write the buffers that are not part of the state dict.
    required = matched.keys() | map(_plain, model.state_dict())
    expected = {name: tensor for name, tensor in own.items() if name in required}
    return matched, problems + shape_problems(_shapes(expected), _shapes(matched))


# --- files ---


def _write(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    # Copies, since tensors in one file may not share memory.
    write_tensors(path, {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})


def _read(directory: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of these files; the later ones count. Raises what `_ensure_in` raises."""
    _ensure_in(directory, names)
    return {name: tensor for file in names for name, tensor in load_file(directory / file).items()}


def _ensure_in(directory: Path, names: Iterable[str]) -> None:
    """Refuse names of files that lie outside of a directory; who wrote it may be unknown.

    Raises:
        ConfigurationError: there is such a name.
    """
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name == "..":
            raise ConfigurationError(f"the tensors of a student are in its own folder, but {directory} names {name!r}.")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Raise `SearchDirectoryError` for files that cannot be read, or do not have the content that they should have."""
    try:
        yield
    except ConfigurationError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchDirectoryError(
            f"the files of a student must be as they were saved, but in {directory} there is "
            f"{type(error).__name__}: {error}; restore them, or have the student trained again."
        ) from error


def _saved(directory: Path) -> dict[str, torch.Tensor]:
    return _read(directory, read_json(directory / DESCRIPTION_FILE)["weights"])


def _library_files(directory: Path) -> list[str]:
    """The files in which `save_pretrained` of the transformers library writes weights."""
    if (directory / INDEX_FILE).exists():
        return sorted(set(read_json(directory / INDEX_FILE)["weight_map"].values()))
    return [WEIGHTS_FILE] if (directory / WEIGHTS_FILE).exists() else []


def _describe(student: nn.Module, tensors: Mapping[str, torch.Tensor], directory: Path) -> None:
    """Complete what `save_pretrained` wrote: the tensors that are missing there, or all if there are other names."""
    files = _library_files(directory)
    written = _read(directory, files)
    if not written.keys() <= _tensors(student).keys():
        files, written = [], {}
    missing = {name: value for name, value in tensors.items() if not _equal(written.get(name), value)}
    if missing:
        _write(missing, directory / OWN_WEIGHTS_FILE)
        files = [*files, OWN_WEIGHTS_FILE]
    kind = type(student)
    description = {"class": [kind.__module__, kind.__qualname__], "weights": files, "modules": _modules(student)}
    write_json(directory / DESCRIPTION_FILE, description)


def _equal(written: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    return written is not None and identical(written, tensor.detach().cpu())


def _saved_undescribed(model: nn.Module, directory: Path) -> dict[str, torch.Tensor]:
    """The tensors of a student without `student.json`: not a pretrained model, or written by an earlier version."""
    files = _library_files(directory)
    if not files:
        raise ConfigurationError(f"a student is loaded from {WEIGHTS_FILE}, but {directory} has none.")
    saved = _read(directory, files)
    if _is_pretrained(model) and not saved.keys() <= _tensors(model).keys():
        # `save_pretrained` wrote other names than those of the model, which only the library can read.
        with isolated_random_state(0):
            loaded = type(model).from_pretrained(directory)  # type: ignore[attr-defined]
        return {name: tensor.cpu() for name, tensor in _without_aliases(_tensors(loaded)).items()}
    return saved


def _modules(model: nn.Module) -> dict[str, str]:
    """For each path, the class and the settings of the module."""
    return {
        _plain(f"{path}.").removesuffix("."): f"{type(module).__name__}({module.extra_repr()})"
        for path, module in model.named_modules(remove_duplicate=False)
    }


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''} {'is' if len(names) == 1 else 'are'}"
