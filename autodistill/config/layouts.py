"""The layouts of configurations in the specification, converted to one.

There are five: `search`, `flash_distillation` and `regular_distillation` side by side; the last two as
`knowledge_transfer` and `regular_distillation` inside `flash_distillation`; all of them under `auto_distillation`, with
`model` next to it; a criterion alone, under `distillation: train: criterion:`; and, for objects, the keys of `search`
next to `knowledge_transfer` and `regular_distillation`. `framework` may be in `model` or next to it. A key that does
not belong to its layout stays where it is, and the model reports it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig

FLASH, REGULAR, TRANSFER = "flash_distillation", "regular_distillation", "knowledge_transfer"

SEARCH_KEYS = (
    "search_space",
    "constraints",
    "search_algorithm",
    "metrics",
    "higher_is_better",
    "max_trials",
    "promote",
    "seed",
)

CRITERIA = ("IntermediateLayersKnowledgeDistillationLoss", "KnowledgeDistillationLoss")

OPTIMIZER_KEYS = ("learning_rate", "weight_decay")

HOOK_SECTIONS = ("train", "evaluation")
"""The sections that the specification's files leave open with `...` if `train_func` and `eval_func` are passed."""


def normalised(given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its sections side by side; `search` is None for a criterion alone.

    Raises:
        ValueError: a layout is not filled in correctly.

    Examples:
        >>> normalised({"auto_distillation": {"search": {}, "flash_distillation": {"regular_distillation": {}}}})
        {'search': {}, 'flash_distillation': None, 'regular_distillation': {}}
        >>> criterion = {"KnowledgeDistillationLoss": {"temperature": 2.0}}
        >>> normalised({"distillation": {"train": {"criterion": criterion}}})["regular_distillation"]
        {'temperature': 2.0}
    """
    data = _without_hooks(dict(given))
    if isinstance(data.get("auto_distillation"), Mapping):
        data |= _without_hooks(dict(data.pop("auto_distillation")))
    if data.get("search", ...) is None and not isinstance(data.get(REGULAR), RegularDistillationConfig):
        del data["search"]  # an empty section of a file; a criterion alone, once checked, does have no search
    if isinstance(data.get("distillation"), Mapping):
        data |= {REGULAR: _criterion_alone(dict(data.pop("distillation"))), "search": data.get("search")}
    if "framework" in data:
        model = data.get("model")
        named = dict(model) if isinstance(model, Mapping) else {} if model is None else model.configured()
        data["model"] = {**named, "framework": data.pop("framework")}
    flat = {key: data.pop(key) for key in SEARCH_KEYS if key in data}
    if flat:
        data["search"] = {**data.get("search", {}), **flat}
    if TRANSFER in data:
        data[FLASH] = data.pop(TRANSFER)
    if isinstance(data.get(FLASH), Mapping) and {TRANSFER, REGULAR} & set(data[FLASH]):
        flash = dict(data[FLASH])
        regular = flash.pop(REGULAR, None)
        if regular is not None:
            data[REGULAR] = regular
        transfer = flash.pop(TRANSFER, None)
        data[FLASH] = {**transfer, **flash} if isinstance(transfer, Mapping) else flash or transfer
    if isinstance(data.get(FLASH), RegularDistillationConfig):
        data[FLASH] = data[FLASH].configured()
    if isinstance(data.get(REGULAR), FlashDistillationConfig):
        data[REGULAR] = _without_blocks(data[REGULAR])
    return data


def _without_blocks(flash: FlashDistillationConfig) -> dict[str, Any]:
    """The settings of flash distillation as those of the whole student.

    Raises:
        ValueError: some of them belong to blocks.
    """
    settings = {key: value for key, value in flash.configured().items() if value is not None}
    of_blocks = [key for key in settings if key not in RegularDistillationConfig.model_fields]
    if of_blocks:
        raise ValueError(
            f"regular_distillation trains the whole student, but is a FlashDistillationConfig with "
            f"{', '.join(of_blocks)}, which belong to blocks; pass a RegularDistillationConfig."
        )
    return settings


def _without_hooks(data: dict[str, Any]) -> dict[str, Any]:
    """Without the sections that the specification leaves open; a mapping in one of them stays, and raises an error."""
    return {key: value for key, value in data.items() if key not in HOOK_SECTIONS or value not in (None, "...", ...)}


def _criterion_alone(section: dict[str, Any]) -> dict[str, Any]:
    """The settings of regular distillation from a criterion and an optimizer, each under its name."""
    train = section.pop("train", None)
    if section or not isinstance(train, Mapping) or not isinstance(train.get("criterion"), Mapping):
        raise ValueError(
            "distillation has one key, train, with the keys optimizer and criterion, but got "
            f"{', '.join(map(str, section)) or 'no valid train'}."
        )
    settings: dict[str, Any] = {}
    for kind, named in train.items():
        if not isinstance(named, Mapping) or len(named) != 1 or kind not in ("optimizer", "criterion"):
            raise ValueError(
                f"distillation.train has an optimizer and a criterion, each by its name, but got {kind!r}."
            )
        (name, arguments), *_ = named.items()
        if kind == "optimizer":
            arguments = dict(arguments or {})
            settings |= {key: arguments.pop(key) for key in OPTIMIZER_KEYS if key in arguments}
            settings |= {"optimizer": name} | ({"optimizer_arguments": arguments} if arguments else {})
        elif name not in CRITERIA:
            raise ValueError(f"a criterion is one of {', '.join(CRITERIA)}, but got {name!r}.")
        else:
            settings |= dict(arguments or {})
    return settings


def criterion_alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of a criterion alone, from the settings of regular distillation.

    Examples:
        >>> criterion_alone({"temperature": 2.0, "optimizer": "SGD", "learning_rate": 0.1})
        {'distillation': {'train': {'optimizer': {'SGD': {'learning_rate': 0.1}}, 'criterion': \
{'KnowledgeDistillationLoss': {'temperature': 2.0}}}}}
    """
    settings = dict(settings)
    train: dict[str, Any] = {}
    if "optimizer" in settings:
        arguments = {key: settings.pop(key) for key in OPTIMIZER_KEYS if key in settings}
        train["optimizer"] = {settings.pop("optimizer"): arguments | settings.pop("optimizer_arguments", {})}
    kind = CRITERIA[0 if "layer_mappings_for_knowledge_transfer" in settings else 1]
    return {"distillation": {"train": {**train, "criterion": {kind: settings}}}}
