"""The configuration of a search as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from autodistill.config.elastic import ElasticConfig
from autodistill.config.executor import ExecutorConfig
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.config.layouts import criterion_alone, normalised
from autodistill.config.reading import read_configuration
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.search import SearchConfig
from autodistill.config.section import Count, Section
from autodistill.errors import ConfigurationError

_FEEDING = {"inputs", "block_names", "layer_mappings_for_knowledge_transfer"}
"""The settings of flash distillation that determine what blocks are fed, directly or through the layers they name."""


def framework_problem(framework: Any) -> str | None:
    """A sentence if models of a framework cannot be searched.

    Examples:
        >>> framework_problem("pytorch") is None, framework_problem("jax")
        (True, "framework must be 'pytorch', the only one that is supported, but got 'jax'; convert the models to \
PyTorch, and leave framework out.")
    """
    if framework == "pytorch":
        return None
    return (
        f"framework must be 'pytorch', the only one that is supported, but got {framework!r}; convert the models to "
        "PyTorch, and leave framework out."
    )


class ModelConfig(Section):
    """The section `model` of the specification's files: a name for the reader, and the framework.

    Attributes:
        name: of the search; it changes nothing.
        framework: the library of the models; only `"pytorch"` exists.
    """

    name: str | None = None
    framework: Literal["pytorch"] = "pytorch"

    @field_validator("framework", mode="before")
    @classmethod
    def _exists(cls, framework: Any) -> Any:
        problem = framework_problem(framework)
        if problem is not None:
            raise ValueError(problem)
        return framework


class AutoDistillationConfig(Section):
    """The whole configuration: the search, and the two phases of the built-in training.

    A phase whose section is absent is skipped; with neither section, both are automatic.

    Attributes:
        search: the space, the algorithm and the metrics; None for a criterion without a search, for a `Distiller`.
        checkpoint_steps: steps of regular distillation between two checkpoints.
        flash_distillation: block by block; `"auto"` for the defaults.
        regular_distillation: the whole student, after flash distillation; `"auto"` for the defaults.
        init: `"teacher"`, or its settings: students start with weights from the teacher instead of those that
            `model_builder` creates. Flash distillation then feeds blocks from the teacher, since they are in the
            teacher's subspace already, unless its settings configure `inputs`, or name blocks and layers.
        elastic: `True`, or the settings of one training for all architectures: every student starts as a slice of it,
            inside the teacher, and regular distillation finishes the best ones, a tenth if `promote` is not configured.
        executor: where trials run, several at the same time: a name, or its settings.
        model: a name and the framework, as the specification's files have them.

    Examples:
        >>> config = AutoDistillationConfig.load({
        ...     "search": {"search_space": {"width": [16, 32]}, "metrics": ["accuracy", "latency"]},
        ...     "regular_distillation": {"train_steps": 200},
        ... })
        >>> config.search.max_trials, config.flash_distillation, config.regular_distillation.train_steps
        (10, None, 200)
    """

    search: SearchConfig | None
    checkpoint_steps: Count = 200
    flash_distillation: FlashDistillationConfig | None = None
    regular_distillation: RegularDistillationConfig | None = None
    init: InitializationConfig | None = None
    # Left out of the record if there is none: directories of earlier versions do not contain it.
    elastic: ElasticConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    executor: ExecutorConfig | None = None
    model: ModelConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _automatic(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = normalised(data)
        phases = ("flash_distillation", "regular_distillation")
        neither = all(data.get(phase) is None for phase in phases) and not _ends_with_slices(data)
        for phase in phases:
            if neither or data.get(phase) == "auto":
                data[phase] = {}
        if data.get("init") == "teacher":
            data["init"] = {}
        if data.get("elastic") is False:
            data["elastic"] = None
        if data.get("elastic") is not None:
            return _elastic(data)
        if data.get("init") is not None:
            data["flash_distillation"] = _fed_by_the_teacher(data.get("flash_distillation"))
        return data

    @classmethod
    def load(cls, source: AutoDistillationConfig | Mapping[str, Any] | str | Path) -> AutoDistillationConfig:
        """The configuration from a mapping, a YAML file, or a configuration.

        Raises:
            ConfigurationError: the configuration is wrong; all mistakes in one error.
        """
        return source if isinstance(source, AutoDistillationConfig) else read_configuration(cls, source)

    @property
    def seed(self) -> int:
        """The seed from which everything random derives; the default one without a search, or while it has none."""
        seed = None if self.search is None else self.search.seed
        default: int = SearchConfig.model_fields["seed"].default
        return default if seed is None else seed

    def the_search(self) -> SearchConfig:
        """The section `search`.

        Raises:
            ConfigurationError: the configuration has no search.
        """
        if self.search is None:
            raise ConfigurationError("search: is required, but the configuration is that of one distillation alone.")
        return self.search

    def starting_from(self, init: Any, elastic: Any = None) -> AutoDistillationConfig:
        """The same with another `init` and another `elastic`; None changes nothing.

        `"teacher"` and True keep settings that are configured.

        Raises:
            ConfigurationError: one of them is wrong; all mistakes in one error.
        """
        changes = {}
        if init is not None and not (init == "teacher" and self.init is not None):
            changes["init"] = init
        if elastic is not None and not (elastic is True and self.elastic is not None):
            changes["elastic"] = elastic
        return self.with_changes(**changes) if changes else self

    def to_dict(self) -> dict[str, Any]:
        """What was configured, as plain values in one layout, from which `load` returns an equal configuration.

        Raises:
            ConfigurationError: it contains functions, which cannot be written to a file.

        Examples:
            >>> config = AutoDistillationConfig.load({
            ...     "search": {"search_space": {"width": (16, 32)}, "metrics": "accuracy"},
            ...     "flash_distillation": {"regular_distillation": {"train_steps": [200]}},
            ... })
            >>> config.to_dict()
            {'search': {'search_space': {'width': [16, 32]}, 'metrics': ['accuracy']}, 'regular_distillation': \
{'train_steps': 200}}
        """
        plain = self.model_dump(mode="json", exclude_unset=True)
        plain = {key: value for key, value in plain.items() if value is not None}
        if self.elastic is not None and self.regular_distillation is None:
            plain["regular_distillation"] = None
        if self.search is None:
            plain |= criterion_alone(plain.pop("regular_distillation"))
        try:
            same = AutoDistillationConfig.load(plain) == self
        except ConfigurationError:
            same = False
        if not same:
            raise ConfigurationError(
                "a configuration that is written to a file must be of names and numbers, but this one holds functions "
                "or modules; specify layers and constraints by name."
            )
        return plain

    def to_yaml(self) -> str:
        """`to_dict` as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


PROMOTED = 0.1
"""The share of slices that regular distillation finishes, if `promote` is not configured."""


def _ends_with_slices(data: Mapping[str, Any]) -> bool:
    """Whether regular distillation is left out of an elastic search, by `regular_distillation: null`."""
    is_elastic = data.get("elastic") not in (None, False)
    return is_elastic and data.get("regular_distillation", ...) is None


def _elastic(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of a search with an elastic student: it takes the place of flash distillation."""
    if data["elastic"] is True:
        data["elastic"] = {}
    if data.get("init") is None:
        data["init"] = {}
    flash = data.get("flash_distillation")
    chosen = flash.model_fields_set if isinstance(flash, FlashDistillationConfig) else set(flash or ())
    if not chosen - {"inputs"}:  # automatic
        data["flash_distillation"] = None
    search = data.get("search")
    finishes = data.get("regular_distillation") is not None
    if finishes and isinstance(search, Mapping) and "promote" not in search:
        data["search"] = {**search, "promote": PROMOTED}
    if finishes and isinstance(search, SearchConfig) and "promote" not in search.model_fields_set:
        data["search"] = search.with_changes(promote=PROMOTED)
    return data


def _fed_by_the_teacher(flash: Any) -> Any:
    """Settings of flash distillation for students that start inside the teacher: `inputs`, unless configured."""
    if isinstance(flash, FlashDistillationConfig) and not _FEEDING & flash.model_fields_set:
        return flash.with_changes(inputs="teacher")
    if isinstance(flash, Mapping) and not _FEEDING & {*flash}:
        return {**flash, "inputs": "teacher"}
    return flash
