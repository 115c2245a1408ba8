"""Finds and delivers small, fast students of a large teacher: architecture search with block-by-block distillation."""

from autodistill.siblings import check_siblings as _check_siblings

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
from autodistill.config.flash_distillation import FlashDistillationConfig  # noqa: E402
from autodistill.config.initialization import InitializationConfig  # noqa: E402
from autodistill.config.phase import PhaseConfig  # noqa: E402
from autodistill.config.regular_distillation import DistillationConfig, RegularDistillationConfig  # noqa: E402
from autodistill.config.temperature import AnnealedTemperature  # noqa: E402
from autodistill.distiller import Distiller  # noqa: E402
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
from autodistill.initialization.from_teacher import TeacherStart, initialize_from_teacher  # noqa: E402
from autodistill.initialization.importance import Importance, measure_importance  # noqa: E402
from autodistill.initialization.subspace import StreamDecomposition, TeacherSubspace, decompose  # noqa: E402
from autodistill.losses.functions import distillation_loss  # noqa: E402
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss  # noqa: E402
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss  # noqa: E402
from autodistill.losses.modules import AttentionLoss, KLDivLoss, MSEHiddenStatesLoss  # noqa: E402
from autodistill.losses.relational import RelationalLoss  # noqa: E402
from autodistill.metrics.measure import measure  # noqa: E402
from autodistill.metrics.metric import Metric  # noqa: E402
from autodistill.models.depthwise_separable import DepthwiseSeparableConv, DepthwiseSeparableStudent  # noqa: E402
from autodistill.models.families import Attention, Family, FeedForward, HeadSizes, Hidden, Output  # noqa: E402
from autodistill.models.layer_mappings import LayerMapping  # noqa: E402
from autodistill.models.taps import Tap  # noqa: E402
from autodistill.models.weights import Part  # noqa: E402
from autodistill.report.mapping_table import MappingRow, explain_mapping  # noqa: E402
from autodistill.report.terminal import results_table  # noqa: E402
from autodistill.search.result import SearchResult  # noqa: E402
from autodistill.search.trial import Trial, TrialState  # noqa: E402
from autodistill.standalone.callbacks import (  # noqa: E402
    AttentionHiddenStatesCallback,
    KLDivCallback,
    LabelLossCallback,
    LossCallback,
    MSEHiddenStatesCallback,
)
from autodistill.standalone.evaluation import evaluate_distillation  # noqa: E402
from autodistill.standalone.runner import DistilRunner  # noqa: E402
from autodistill.standalone.stored_predictions import DistillationDataset, save_predictions  # noqa: E402
from search_spaces import (  # noqa: E402
    Architecture,
    Choice,
    FloatRange,
    IntRange,
    SearchSpace,
    depthwise_separable_space,
)

__version__ = "0.1.0"

__all__ = [
    "Advisor",
    "AdvisorError",
    "AdvisorSampler",
    "AnnealedTemperature",
    "Architecture",
    "Attention",
    "AttentionHiddenStatesCallback",
    "AttentionLoss",
    "AutoDistillation",
    "AutoDistillationConfig",
    "AutoDistillationError",
    "BayesianAdvisor",
    "Choice",
    "ConfigurationError",
    "DepthwiseSeparableConv",
    "DepthwiseSeparableStudent",
    "DistilRunner",
    "DistillationConfig",
    "DistillationDataset",
    "Distiller",
    "EvolutionAdvisor",
    "Family",
    "FeedForward",
    "FlashDistillationConfig",
    "FloatRange",
    "GridAdvisor",
    "HeadSizes",
    "Hidden",
    "Importance",
    "InitializationConfig",
    "IntRange",
    "IntermediateLayersKnowledgeDistillationLoss",
    "KLDivCallback",
    "KLDivLoss",
    "KnowledgeDistillationLoss",
    "LabelLossCallback",
    "LayerMapping",
    "LayerNotFoundError",
    "LocalSearchAdvisor",
    "LossCallback",
    "MSEHiddenStatesCallback",
    "MSEHiddenStatesLoss",
    "MappingRow",
    "Metric",
    "NonFiniteError",
    "Observation",
    "Output",
    "Part",
    "PhaseConfig",
    "RandomAdvisor",
    "RegularDistillationConfig",
    "RelationalLoss",
    "SamplerAdvisor",
    "SearchConfig",
    "SearchDirectoryError",
    "SearchResult",
    "SearchSpace",
    "SearchSpaceError",
    "SearchStoppedError",
    "SpaceExhaustedError",
    "StreamDecomposition",
    "TPEAdvisor",
    "Tap",
    "TeacherStart",
    "TeacherSubspace",
    "Trial",
    "TrialError",
    "TrialState",
    "advisor_names",
    "create_advisor",
    "decompose",
    "depthwise_separable_space",
    "distillation_loss",
    "evaluate_distillation",
    "explain_mapping",
    "initialize_from_teacher",
    "measure",
    "measure_importance",
    "results_table",
    "save_predictions",
]
