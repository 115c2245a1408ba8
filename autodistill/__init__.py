"""Finds and delivers small, fast students of a large teacher: architecture search with block-by-block distillation."""

from autodistill._siblings import check_siblings as _check_siblings

_check_siblings()

from advisors import (  # noqa: E402
    Advisor,
    AdvisorSampler,
    BayesianAdvisor,
    EvolutionAdvisor,
    GridAdvisor,
    LocalSearchAdvisor,
    Observation,
    RandomAdvisor,
    SamplerAdvisor,
    TPEAdvisor,
    advisor_names,
    create_advisor,
)
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
from search_spaces import Architecture, Choice, FloatRange, IntRange, SearchSpace  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Advisor",
    "AdvisorError",
    "AdvisorSampler",
    "AnnealedTemperature",
    "Architecture",
    "AutoDistillation",
    "AutoDistillationConfig",
    "AutoDistillationError",
    "BayesianAdvisor",
    "Choice",
    "ConfigurationError",
    "Distiller",
    "EvolutionAdvisor",
    "FlashDistillationConfig",
    "FloatRange",
    "GridAdvisor",
    "IntRange",
    "IntermediateLayersKnowledgeDistillationLoss",
    "LayerMapping",
    "LayerNotFoundError",
    "LocalSearchAdvisor",
    "Metric",
    "NonFiniteError",
    "Observation",
    "RandomAdvisor",
    "RegularDistillationConfig",
    "SamplerAdvisor",
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
    "advisor_names",
    "create_advisor",
    "measure",
    "results_table",
]
