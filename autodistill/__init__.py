"""Finds and delivers small, fast students of a large teacher: architecture search with block-by-block distillation."""

from autodistill._siblings import check_siblings as _check_siblings

_check_siblings()

from advisors import Advisor, BayesianAdvisor, GridAdvisor, Observation, RandomAdvisor, TPEAdvisor  # noqa: E402
from autodistill.auto_distillation import AutoDistillation  # noqa: E402
from autodistill.config import AutoDistillationConfig, SearchConfig  # noqa: E402
from autodistill.display import results_table  # noqa: E402
from autodistill.distillation.criteria import IntermediateLayersKnowledgeDistillationLoss  # noqa: E402
from autodistill.distillation.layers import LayerMapping, Tap  # noqa: E402
from autodistill.distillation.schedule import Distiller  # noqa: E402
from autodistill.distillation.settings import (  # noqa: E402
    AnnealedTemperature,
    FlashDistillationConfig,
    RegularDistillationConfig,
)
from autodistill.errors import (  # noqa: E402
    AdvisorError,
    AutoDistillationError,
    ConfigurationError,
    LayerNotFoundError,
    NonFiniteError,
    SearchDirectoryError,
    SearchSpaceError,
    SearchStoppedError,
    SpaceExhaustedError,
    TrialError,
)
from autodistill.measure import measure  # noqa: E402
from autodistill.metrics import Metric  # noqa: E402
from autodistill.trial import SearchResult, Trial, TrialState  # noqa: E402
from search_spaces import Choice, FloatRange, IntRange, SearchSpace  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Advisor",
    "AdvisorError",
    "AnnealedTemperature",
    "AutoDistillation",
    "AutoDistillationConfig",
    "AutoDistillationError",
    "BayesianAdvisor",
    "Choice",
    "ConfigurationError",
    "Distiller",
    "FlashDistillationConfig",
    "FloatRange",
    "GridAdvisor",
    "IntRange",
    "IntermediateLayersKnowledgeDistillationLoss",
    "LayerMapping",
    "LayerNotFoundError",
    "Metric",
    "NonFiniteError",
    "Observation",
    "RandomAdvisor",
    "RegularDistillationConfig",
    "SearchConfig",
    "SearchDirectoryError",
    "SearchResult",
    "SearchSpace",
    "SearchSpaceError",
    "SearchStoppedError",
    "SpaceExhaustedError",
    "TPEAdvisor",
    "Tap",
    "Trial",
    "TrialError",
    "TrialState",
    "measure",
    "results_table",
]
