"""Layer mappings: pairs of a student's tap and a teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autodistill.errors import ConfigurationError
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
