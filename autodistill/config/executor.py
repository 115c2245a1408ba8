"""The section `executor`: where the trials of a search run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autodistill.config.section import Count, Disagreement, Section

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_OF_PROCESSES = ("threads",)
_OF_RAY = ("num_cpus", "num_gpus", "resources", "runtime_env")


class ExecutorConfig(Section):
    """Where trials run, and how many at the same time. It changes no student, and may differ when a search is resumed.

    Attributes:
        name: `serial`, one after another in the process of the search; `processes` on this computer; or `ray`, on a
            cluster or this computer.
        workers: trials at the same time. By default as many as there are GPUs, or else cores; with Ray as many as its
            cluster has resources for, when the search starts.
        threads: of each process; by default the cores are divided among them.
        num_cpus: that a trial reserves with Ray; 1 by default.
        num_gpus: the same, also a fraction; by default 1 if this computer has a GPU, else 0.
        resources: the same for resources of other names.
        runtime_env: of Ray: the packages, files and variables that workers need.

    Examples:
        >>> ExecutorConfig.model_validate("processes").workers is None
        True
        >>> ExecutorConfig(name="ray", num_gpus=0.5).num_gpus
        0.5
    """

    name: Literal["serial", "processes", "ray"]
    workers: Count | None = None
    threads: Count | None = None
    num_cpus: Amount = 1
    num_gpus: Amount | None = None
    resources: dict[str, Amount] = Field(default_factory=dict)
    runtime_env: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"name": data}
        if not isinstance(data, Mapping | ExecutorConfig):
            raise ValueError(f"must be 'serial', 'processes', 'ray', or a mapping with this name, but is {data!r}.")
        return data

    def _disagreements(self) -> Iterator[Disagreement]:
        if self.name == "serial" and (self.workers or 1) > 1:
            yield Disagreement(
                "workers", "serial trials run one at a time; leave workers out, or choose processes.", ("name",)
            )
        for owner, settings in (("processes", _OF_PROCESSES), ("ray", _OF_RAY)):
            for setting in settings:
                if setting in self.model_fields_set and self.name != owner:
                    yield Disagreement(
                        setting,
                        f"{setting} belongs to {owner}, but the executor is {self.name}; leave it out.",
                        ("name",),
                    )
