"""The types of the names in `__init__.py`, where they are imported lazily."""

from advisors.advisor_sampler import AdvisorSampler as AdvisorSampler
from advisors.base import Advisor as Advisor
from advisors.base import Observation as Observation
from advisors.bayesian import BayesianAdvisor as BayesianAdvisor
from advisors.registry import create_advisor as create_advisor
from advisors.sampler import SamplerAdvisor as SamplerAdvisor
from autodistill.auto_distillation import AutoDistillation as AutoDistillation
from autodistill.config.auto_distillation import AutoDistillationConfig as AutoDistillationConfig
from autodistill.config.executor import ExecutorConfig as ExecutorConfig
from autodistill.config.flash_distillation import FlashDistillationConfig as FlashDistillationConfig
from autodistill.config.initialization import InitializationConfig as InitializationConfig
from autodistill.config.phase import PhaseConfig as PhaseConfig
from autodistill.config.regular_distillation import (
    DistillationConfig as DistillationConfig,
)
from autodistill.config.regular_distillation import (
    RegularDistillationConfig as RegularDistillationConfig,
)
from autodistill.config.search import SearchConfig as SearchConfig
from autodistill.config.temperature import AnnealedTemperature as AnnealedTemperature
from autodistill.distiller import Distiller as Distiller
from autodistill.errors import (
    AdvisorError as AdvisorError,
)
from autodistill.errors import (
    AutoDistillationError as AutoDistillationError,
)
from autodistill.errors import (
    ConfigurationError as ConfigurationError,
)
from autodistill.errors import (
    LayerNotFoundError as LayerNotFoundError,
)
from autodistill.errors import (
    NonFiniteError as NonFiniteError,
)
from autodistill.errors import (
    SearchDirectoryError as SearchDirectoryError,
)
from autodistill.errors import (
    SearchSpaceError as SearchSpaceError,
)
from autodistill.errors import (
    SearchStoppedError as SearchStoppedError,
)
from autodistill.errors import (
    SpaceExhaustedError as SpaceExhaustedError,
)
from autodistill.errors import (
    StorageError as StorageError,
)
from autodistill.errors import (
    TeacherChangedError as TeacherChangedError,
)
from autodistill.errors import (
    TrialError as TrialError,
)
from autodistill.initialization.from_teacher import initialize_from_teacher as initialize_from_teacher
from autodistill.integrations.huggingface.trainer import (
    AutoDistillationMixin as AutoDistillationMixin,
)
from autodistill.integrations.huggingface.trainer import (
    AutoDistillationTrainer as AutoDistillationTrainer,
)
from autodistill.losses.functions import distillation_loss as distillation_loss
from autodistill.losses.intermediate_layers import (
    IntermediateLayersKnowledgeDistillationLoss as IntermediateLayersKnowledgeDistillationLoss,
)
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss as KnowledgeDistillationLoss
from autodistill.losses.loss_modules import (
    AttentionLoss as AttentionLoss,
)
from autodistill.losses.loss_modules import (
    KLDivLoss as KLDivLoss,
)
from autodistill.losses.loss_modules import (
    MSEHiddenStatesLoss as MSEHiddenStatesLoss,
)
from autodistill.losses.relational import RelationalLoss as RelationalLoss
from autodistill.metrics.measure import measure as measure
from autodistill.metrics.metric import Metric as Metric
from autodistill.models.depthwise_separable import DepthwiseSeparableStudent as DepthwiseSeparableStudent
from autodistill.models.families import Family as Family
from autodistill.remote_files import RemoteFiles as RemoteFiles
from autodistill.report.mapping_table import explain_mapping as explain_mapping
from autodistill.report.terminal import results_table as results_table
from autodistill.search.result import SearchResult as SearchResult
from autodistill.search.trial import Trial as Trial
from autodistill.search.trial import TrialState as TrialState
from autodistill.standalone.callbacks import (
    AttentionHiddenStatesCallback as AttentionHiddenStatesCallback,
)
from autodistill.standalone.callbacks import (
    KLDivCallback as KLDivCallback,
)
from autodistill.standalone.callbacks import (
    LabelLossCallback as LabelLossCallback,
)
from autodistill.standalone.callbacks import (
    LossCallback as LossCallback,
)
from autodistill.standalone.callbacks import (
    MSEHiddenStatesCallback as MSEHiddenStatesCallback,
)
from autodistill.standalone.evaluation import evaluate_distillation as evaluate_distillation
from autodistill.standalone.guide import configure_training as configure_training
from autodistill.standalone.guide import get_temperature as get_temperature
from autodistill.standalone.guide import online_distillation as online_distillation
from autodistill.standalone.guide import softmax_with_temperature as softmax_with_temperature
from autodistill.standalone.guide import train_with_distillation as train_with_distillation
from autodistill.standalone.image_files import ImageFiles as ImageFiles
from autodistill.standalone.runner import DistilRunner as DistilRunner
from autodistill.standalone.scheduler import Scheduler as Scheduler
from autodistill.standalone.stored_predictions import (
    DistillationDataset as DistillationDataset,
)
from autodistill.standalone.stored_predictions import (
    save_predictions as save_predictions,
)
from search_spaces.constraints import Architecture as Architecture
from search_spaces.domains import Choice as Choice
from search_spaces.domains import FloatRange as FloatRange
from search_spaces.domains import IntRange as IntRange
from search_spaces.space import SearchSpace as SearchSpace

__version__: str
