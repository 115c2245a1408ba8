"""Checks before a trainer searches: its arguments, its data and the configuration of the search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import has_length

from autodistill.config import AutoDistillationConfig
from autodistill.config.phase import PhaseConfig
from autodistill.metrics.built_in import BUILT_IN
from autodistill.randomness import isolated_random_state

OF_THE_TRAINER = tuple(name for name in PhaseConfig.model_fields if name != "temperature")
"""Settings of regular distillation that the trainer's arguments replace."""


def trainer_problems(trainer: Any, config: AutoDistillationConfig, train_func: Any, eval_func: Any) -> Iterator[str]:
    """A sentence for each problem that prevents a trainer from searching with this configuration."""
    regular = config.regular_distillation
    if regular is not None and train_func is None:
        for name in OF_THE_TRAINER:
            if name in regular.model_fields_set:
                yield (
                    f"regular distillation is a run of the trainer, so its {name} is that of TrainingArguments, "
                    f"but regular_distillation has {name}={getattr(regular, name)!r}; set it in TrainingArguments."
                )
    if train_func is None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        yield "the built-in distillation trains whole models, but FSDP or DeepSpeed splits them; use DDP."
    if train_func is None and (trainer.optimizer is not None or trainer.lr_scheduler is not None):
        yield (
            "every student needs an optimizer of its own, but the trainer received one; leave `optimizers` "
            "out, or pass optimizer_cls_and_kwargs."
        )
    if train_func is None and trainer.args.world_size > 1 and not has_length(trainer.train_dataset):
        yield "several processes share a data set by its length, but train_dataset has none; use one process."
    if eval_func is None:
        yield from _metric_problems(trainer, [metric.name for metric in config.the_search().metrics])


def _label_problems(trainer: Any, evaluated: Sequence[str]) -> Iterator[str]:
    """A sentence if the trainer's own evaluation computes neither loss nor metrics, which it does from labels."""
    methods = ("evaluate", "evaluation_loop", "prediction_step")
    if any(getattr(type(trainer), name, None) is not getattr(Trainer, name) for name in methods):
        return
    sets = trainer.eval_dataset
    with isolated_random_state(0):
        batch = next(iter(trainer.get_eval_dataloader(next(iter(sets.values())) if isinstance(sets, dict) else None)))
    labels = trainer.label_names
    returns_loss = batch.get("return_loss", trainer.can_return_loss and not labels)
    if returns_loss or (labels and all(batch.get(name) is not None for name in labels)):
        return
    yield (
        f"the trainer's evaluation computes {', '.join(map(repr, evaluated))} from labels "
        f"({', '.join(map(repr, labels)) or 'none in label_names'}), but batches of eval_dataset hold "
        f"{', '.join(map(repr, batch))}; add labels to it, set label_names in TrainingArguments, pass an eval_func, or "
        f"search for built-in metrics only ({', '.join(BUILT_IN)})."
    )


def _metric_problems(trainer: Any, requested: Sequence[str]) -> Iterator[str]:
    evaluated = [name for name in requested if name not in BUILT_IN]
    if evaluated and trainer.eval_dataset is None:
        yield (
            f"the trainer's evaluation returns {', '.join(map(repr, evaluated))}, but there is no eval_dataset; pass "
            f"one or an eval_func, or search for built-in metrics only ({', '.join(BUILT_IN)})."
        )
    if evaluated and trainer.eval_dataset is not None:
        yield from _label_problems(trainer, evaluated)
    if not isinstance(trainer.eval_dataset, dict):
        return
    prefixes = tuple(f"{key}_" for key in trainer.eval_dataset)
    lost = [name for name in evaluated if not name.removeprefix("eval_").startswith(prefixes)]
    if lost:
        names = ", ".join(f"'eval_{prefix}loss'" for prefix in prefixes)
        yield (
            f"metrics of several evaluation data sets must contain their names, as {names} do, but got "
            f"{', '.join(map(repr, lost))}; add the name of a data set."
        )
