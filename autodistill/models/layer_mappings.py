"""Layer mappings: pairs of a student's tap and a teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.module_paths import has_module
from autodistill.models.taps import OutputProcess, Tap


@dataclass(frozen=True)
class LayerMapping:
    """A tap of the student and the tap of the teacher that it is trained to match."""

    student: Tap
    teacher: Tap

    def __str__(self) -> str:
        return f"student {self.student} -> teacher {self.teacher}"


def parse_mapping(spec: Any) -> LayerMapping:
    """Normalise one layer mapping.

    Accepted: `('s', 't')`, `('s', '1', 't', '1')`, `[('s', '1'), ('t', '1')]`, and, where student and teacher use the
    same name, `('s',)`, `[('s',)]` or, with the same output process, `[('s', '1')]`; an output process may also be a
    number or a callable. `('s', '1')` may be a teacher's layer or an output process: see `in_models`.

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
        case [[str(path), process]]:
            tap = Tap(path, _checked(process, spec))
            return LayerMapping(tap, tap)
        case [str(student), str(teacher)]:
            return LayerMapping(Tap(student), Tap(teacher))
        case [str(path), process] if isinstance(process, int) or callable(process):
            tap = Tap(path, _checked(process, spec))
            return LayerMapping(tap, tap)
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


def in_models(mappings: Iterable[LayerMapping], student: nn.Module, teacher: nn.Module) -> tuple[LayerMapping, ...]:
    """The mappings, in which a name and a number are read as these models require.

    `('s', '1')` pairs the student's layer `s` with the teacher's layer `1` if the teacher has a layer of that name.
    Otherwise `'1'` is the output process of layer `s` in both models, if both have that layer. A key that is no number
    is never read as an output process in this form, since it may be the misspelt name of a layer.

    Raises:
        ConfigurationError: a number is neither; all mistakes in one error.

    Examples:
        >>> model = nn.ModuleDict({"s": nn.Identity(), "t": nn.Identity()})
        >>> read = in_models([parse_mapping(("s", "t")), parse_mapping(("s", "1"))], model, model)
        >>> [str(mapping) for mapping in read]
        ["student 's' -> teacher 't'", "student 's'[1] -> teacher 's'[1]"]
    """
    problems: list[str] = []
    read = []
    for mapping in mappings:
        path, name = mapping.student.path, mapping.teacher.path
        ambiguous = path and name.isdigit() and mapping == LayerMapping(Tap(path), Tap(name))
        if not ambiguous or has_module(teacher, name):
            read.append(mapping)
        elif has_module(student, path) and has_module(teacher, path):
            read.append(LayerMapping(Tap(path, name), Tap(path, name)))
        else:
            problems.append(
                f"('{path}', '{name}') pairs a layer of the student with one of the teacher, or is one layer of both "
                f"with its output process; but the teacher has no layer '{name}', and "
                f"{'the teacher' if has_module(student, path) else 'the student'} no layer '{path}'; "
                "write ('student layer', 'output process', 'teacher layer', 'output process')."
            )
    if problems:
        raise ConfigurationError(problems)
    return tuple(read)


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


def automatic_mapping(student_blocks: int, teacher_blocks: int) -> list[int]:
    """The teacher block for each student block to match: block `ceil((i + 1) * m / n) - 1` of m for block i of n.

    The last student block is always paired with the last teacher block.

    Examples:
        >>> automatic_mapping(4, 12)
        [2, 5, 8, 11]
        >>> automatic_mapping(4, 6)
        [1, 2, 4, 5]
    """
    return [-(-(i + 1) * teacher_blocks // student_blocks) - 1 for i in range(student_blocks)]
