"""What hooks change outside their student is undone after each trial; what cannot be undone is an error."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from autodistill.errors import TeacherChangedError, TrialError
from autodistill.tensors import checksum

logger = logging.getLogger(__name__)

Checksums = dict[str, int]
"""The checksum of each parameter and saved buffer of a model, by name."""


class Setting(NamedTuple):
    """A setting of the process on which the results of later students depend."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _backend_setting(backend: Any, name: str) -> Setting:
    return Setting(f"{backend.__name__}.{name}", lambda: getattr(backend, name), lambda to: setattr(backend, name, to))


SETTINGS = (
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting(
        "the default device",
        torch.get_default_device,
        # None is the CPU too, without a function mode around every call.
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    Setting("the gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("deterministic algorithms", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    *(_backend_setting(torch.backends.cudnn, name) for name in ("enabled", "deterministic", "benchmark")),
    Setting("the working directory", os.getcwd, os.chdir),
)

HOOKS = tuple(name for name in vars(nn.Module()) if name.startswith(("_forward", "_backward")) and "hooks" in name)
"""The attributes of a module that hold its hooks."""


class HookGuard:
    """Keeps what the user's functions do from affecting later students.

    Examples:
        >>> teacher, guard = nn.Linear(2, 1), HookGuard()
        >>> threads = torch.get_num_threads()
        >>> with guard.isolated(teacher):
        ...     torch.set_num_threads(threads + 1)
        ...     _ = teacher.train().register_forward_hook(print)
        >>> torch.get_num_threads() == threads, len(teacher._forward_hooks)
        (True, 0)
        >>> _ = teacher.weight.data.zero_()
        >>> with contextlib.suppress(TeacherChangedError):
        ...     guard.check(teacher)
        ...     print("unchanged")
    """

    def __init__(self) -> None:
        self._teacher: weakref.ref[nn.Module] | None = None
        self._checksums: Checksums = {}
        self._reported: set[str] = set()

    @contextlib.contextmanager
    def isolated(self, teacher: nn.Module | None, *, verified: bool = False) -> Iterator[None]:
        """Within the context hooks run; afterwards `SETTINGS` and the teacher are as before, its weights apart.

        Args:
            teacher: its hooks, gradients and modes are restored.
            verified: whether the teacher's weights are compared afterwards with those before the first context.

        Raises:
            TeacherChangedError: they differ.
            TrialError: a hook called `sys.exit`.
        """
        self._watch(teacher)
        settings = [(setting, _read(setting)) for setting in SETTINGS]
        attachments = None if teacher is None else _Attachments(teacher)
        try:
            yield
        except KeyboardInterrupt:  # of the user, or by a signal
            raise
        except SystemExit as error:
            self._check_if(verified, teacher)
            raise TrialError(
                f"a hook must not end the program, but one called sys.exit({error.code!r}): raise an exception to fail "
                "the trial, or call search.stop() in a callback to end the search."
            ) from error
        except Exception:
            self._check_if(verified, teacher)
            raise
        else:
            self._check_if(verified, teacher)
        finally:
            for setting, value in settings:
                self._restore(setting, value)
            for change in () if attachments is None else attachments.restore():
                self._report(f"the teacher's {change}")

    def check(self, teacher: nn.Module | None) -> None:
        """Compare the teacher's weights with those before the first context.

        Raises:
            TeacherChangedError: they differ.
        """
        self._watch(teacher)
        if teacher is None:
            return
        now = _checksums(teacher)
        changed = [name for name in {**self._checksums, **now} if now.get(name) != self._checksums.get(name)]
        if changed:
            names = ", ".join(map(repr, changed[:3])) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise TeacherChangedError(
                f"the teacher must stay as it is during a search, but a hook changed {names}: let model_builder, "
                "train_func, eval_func and loss_func use copy.deepcopy(teacher), or a teacher in eval mode and without "
                "gradients; then start the program again with the original teacher, and the search resumes."
            )

    def _check_if(self, verified: bool, teacher: nn.Module | None) -> None:
        if verified:
            self.check(teacher)

    def _watch(self, teacher: nn.Module | None) -> None:
        """Remember the weights of a teacher that is not yet known."""
        if teacher is not None and (self._teacher is None or self._teacher() is not teacher):
            self._teacher, self._checksums = weakref.ref(teacher), _checksums(teacher)

    def _restore(self, setting: Setting, value: Any) -> None:
        now = _read(setting)
        if value is None or now == value:
            return
        try:
            setting.write(value)
        except (OSError, RuntimeError) as error:
            logger.warning("a hook changed %s, and it cannot be restored: %s", setting.name, error)
        else:
            self._report(f"{setting.name} from {value} to {now}")

    def _report(self, change: str) -> None:
        """Log what was restored, once: a hook may do the same in every trial."""
        if change not in self._reported:
            self._reported.add(change)
            logger.warning("a hook changed %s; this is undone, so that later trials do not depend on it", change)


class _Attachments:
    """What hooks may leave on a teacher besides weights: hooks of modules, their modes, and gradients."""

    def __init__(self, teacher: nn.Module) -> None:
        self._modules = [
            (module, module.training, {name: dict(getattr(module, name)) for name in HOOKS})
            for module in teacher.modules()
        ]
        self._parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in teacher.parameters()]

    def restore(self) -> list[str]:
        """Restore it; returns what was different."""
        different = set()
        for module, training, hooks in self._modules:
            if module.training and not training:  # eval mode stays: the engine sets it once, when it uses the teacher
                module.training = False
                different.add("mode")
            for name, before in hooks.items():
                now = getattr(module, name)
                if dict(now) != before:
                    now.clear()
                    now.update(before)
                    different.add("hooks")
        for parameter, requires_grad, grad in self._parameters:
            if parameter.requires_grad != requires_grad or parameter.grad is not grad:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
                different.add("gradients")
        return sorted(different)


def _read(setting: Setting) -> Any:
    """The value; None if it cannot be read, as the working directory after its removal."""
    try:
        return setting.read()
    except (OSError, RuntimeError):
        return None


def _checksums(model: nn.Module) -> Checksums:
    """Computed from the values: versions of tensors do not show what is changed through `.data`.

    Buffers that are not saved are left out: a forward may recompute them, such as rotary frequencies.
    """
    saved = {
        id(buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    tensors = [
        *model.named_parameters(),
        *((name, buffer) for name, buffer in model.named_buffers() if id(buffer) in saved),
    ]
    return {name: checksum(tensor) for name, tensor in tensors if not is_lazy(tensor)}
