"""Modes of a model: frozen, evaluating, partly training, compiled."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.module_paths import find_module
from autodistill.models.taps import Tap

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[dict[nn.Parameter, bool]]:
    """Within the context nothing of the model trains: eval mode, and no parameter requires gradients.

    Not the same as `torch.no_grad()`, under which PyTorch may choose other kernels, whose last bits differ, than for
    frozen blocks before a trained one.

    Yields:
        Which parameters required gradients before.
    """
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield required
    finally:
        model.eval()
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Within the context the models are in eval mode; afterwards every module is back in its previous mode.

    Examples:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, was in modes:
            module.training = was


@contextlib.contextmanager
def inference(*models: nn.Module) -> Iterator[None]:
    """Within the context the models are evaluating, and nothing records gradients, now or later.

    Examples:
        >>> with inference(nn.Dropout()):
        ...     torch.is_inference_mode_enabled()
        True
    """
    with evaluating(*models), torch.inference_mode():
        yield


@contextlib.contextmanager
def training_only(model: nn.Module, blocks: Sequence[str]) -> Iterator[list[nn.Parameter]]:
    """Within the context only these blocks train: the rest is frozen and in eval mode.

    Args:
        model: any model.
        blocks: paths of modules; `""` is the whole model.

    Yields:
        The parameters that train: those of the blocks that required gradients before, each once.

    Raises:
        ConfigurationError: there are none.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
        >>> with training_only(model, ["2"]) as parameters:
        ...     len(parameters), model[0].weight.requires_grad, model[1].training, model[2].training
        (2, False, False, True)
        >>> model[0].weight.requires_grad
        True
    """
    modules = [find_module(model, block, "student") for block in blocks]
    with frozen(model) as required:
        trained = [p for p in dict.fromkeys(p for module in modules for p in module.parameters()) if required[p]]
        if not trained:
            raise ConfigurationError(nothing_to_train(blocks))
        for module in modules:
            module.train()
        for parameter in trained:
            parameter.requires_grad_(True)
        with _checkpointing_without_reentry(model):
            yield trained


@contextlib.contextmanager
def _checkpointing_without_reentry(model: nn.Module) -> Iterator[None]:
    """Within the context, gradient checkpointing of transformers' modules is not reentrant.

    The reentrant form computes the same, but no gradient at all for a module whose inputs require none, as those of a
    block after frozen ones.
    """
    name = "_gradient_checkpointing_func"
    reentrant = {
        module: function
        for module in model.modules()
        if isinstance(function := module.__dict__.get(name), functools.partial)
        and function.keywords.get("use_reentrant")
    }
    try:
        for module, function in reentrant.items():
            setattr(module, name, functools.partial(function, use_reentrant=False))
        yield
    finally:
        for module, function in reentrant.items():
            setattr(module, name, function)


def nothing_to_train(blocks: Sequence[str]) -> str:
    """The message for a stage whose blocks have no parameters, or only frozen ones."""
    names = ", ".join(map(repr, blocks))
    return (
        f"a stage must have parameters to train, but {names} has none that requires gradients; let them require "
        "gradients (requires_grad_), or name the blocks to train (block_names)."
    )


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or a module inside it was compiled, by `torch.compile(module)` or `module.compile()`.

    Examples:
        >>> compiled = torch.compile(nn.Linear(2, 2), backend="eager")
        >>> is_compiled(nn.Linear(2, 2)), is_compiled(nn.Sequential(compiled))
        (False, True)
    """
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


@contextlib.contextmanager
def plain_forward(model: nn.Module, *, keep_compiled: bool = False) -> Iterator[None]:
    """Within the context, a forward pass of the model runs its modules one by one and caches nothing.

    No configuration inside the model enables a key-value cache, which training does not need. The fused path that
    `nn.TransformerEncoder` takes in eval mode is off: it skips modules that may be mapped, passes ragged tensors from
    layer to layer, and depends on which hooks are registered, with different results in the last bits. Compiled modules
    run uncompiled, since compiled code ignores hooks that are added to it.

    Args:
        model: any model.
        keep_compiled: run compiled modules as they are: for forwards without hooks inside the model.
    """
    configs = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    caching = [config for config in configs.values() if getattr(config, "use_cache", False)]
    fused = torch.backends.mha.get_fastpath_enabled()
    for config in caching:
        config.use_cache = False
    torch.backends.mha.set_fastpath_enabled(False)
    runs_compiled = keep_compiled or not is_compiled(model)
    try:
        with contextlib.nullcontext() if runs_compiled else torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for config in caching:
            config.use_cache = True
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def compiled(model: nn.Module, path: str, taps: Iterable[Tap], enabled: bool) -> Iterator[None]:
    """Within the context, if enabled, the forward of one module is compiled by `torch.compile`.

    It is not compiled if a layer inside it is mapped: hooks are added and removed there, which compiled code ignores.
    """
    inside = sorted({repr(tap.path) for tap in taps if tap.path != path})
    if enabled and inside:
        logger.info("%r is not compiled, since layers inside it are mapped: %s", path, ", ".join(inside))
    if not enabled or inside:
        yield
        return
    module = find_module(model, path)
    own = {"forward": module.__dict__["forward"]} if "forward" in module.__dict__ else {}
    module.__dict__["forward"] = torch.compile(module.forward)
    try:
        yield
    finally:
        del module.__dict__["forward"]
        module.__dict__.update(own)
        torch.compiler.reset()  # PyTorch stops compiling a function after a few variants (blocks of other widths)
