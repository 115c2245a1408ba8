"""Finds and delivers small, fast students of a large teacher: architecture search with block-by-block distillation.

A name is imported from its module when it is first used.
"""

import importlib
import typing

from autodistill.siblings import check_siblings as _check_siblings

_check_siblings()

if typing.TYPE_CHECKING:
    from advisors.advisor_sampler import AdvisorSampler
    from advisors.base import Advisor, Observation
    from advisors.bayesian import BayesianAdvisor
    from advisors.registry import create_advisor
    from advisors.sampler import SamplerAdvisor
    from autodistill.auto_distillation import AutoDistillation
    from autodistill.config.auto_distillation import AutoDistillationConfig
    from autodistill.config.flash_distillation import FlashDistillationConfig
    from autodistill.config.initialization import InitializationConfig
    from autodistill.config.phase import PhaseConfig
    from autodistill.config.regular_distillation import DistillationConfig, RegularDistillationConfig
    from autodistill.config.search import SearchConfig
    from autodistill.config.temperature import AnnealedTemperature
    from autodistill.distiller import Distiller
    from autodistill.errors import (
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
    from autodistill.initialization.from_teacher import initialize_from_teacher
    from autodistill.integrations.huggingface.trainer import AutoDistillationMixin, AutoDistillationTrainer
    from autodistill.losses.functions import distillation_loss
    from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
    from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
    from autodistill.losses.modules import AttentionLoss, KLDivLoss, MSEHiddenStatesLoss
    from autodistill.losses.relational import RelationalLoss
    from autodistill.metrics.measure import measure
    from autodistill.metrics.metric import Metric
    from autodistill.models.depthwise_separable import DepthwiseSeparableStudent
    from autodistill.models.families import Family
    from autodistill.report.mapping_table import explain_mapping
    from autodistill.report.terminal import results_table
    from autodistill.search.result import SearchResult
    from autodistill.search.trial import Trial, TrialState
    from autodistill.standalone.callbacks import (
        AttentionHiddenStatesCallback,
        KLDivCallback,
        LabelLossCallback,
        LossCallback,
        MSEHiddenStatesCallback,
    )
    from autodistill.standalone.evaluation import evaluate_distillation
    from autodistill.standalone.runner import DistilRunner
    from autodistill.standalone.stored_predictions import DistillationDataset, save_predictions
    from search_spaces.constraints import Architecture
    from search_spaces.domains import Choice, FloatRange, IntRange
    from search_spaces.space import SearchSpace
else:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})


__version__ = "0.1.0"

_MODULES = {
    "Advisor": "advisors.base",
    "AdvisorError": "autodistill.errors",
    "AdvisorSampler": "advisors.advisor_sampler",
    "AnnealedTemperature": "autodistill.config.temperature",
    "Architecture": "search_spaces.constraints",
    "AttentionHiddenStatesCallback": "autodistill.standalone.callbacks",
    "AttentionLoss": "autodistill.losses.modules",
    "AutoDistillation": "autodistill.auto_distillation",
    "AutoDistillationConfig": "autodistill.config.auto_distillation",
    "AutoDistillationError": "autodistill.errors",
    "AutoDistillationMixin": "autodistill.integrations.huggingface.trainer",
    "AutoDistillationTrainer": "autodistill.integrations.huggingface.trainer",
    "BayesianAdvisor": "advisors.bayesian",
    "Choice": "search_spaces.domains",
    "ConfigurationError": "autodistill.errors",
    "DepthwiseSeparableStudent": "autodistill.models.depthwise_separable",
    "DistilRunner": "autodistill.standalone.runner",
    "DistillationConfig": "autodistill.config.regular_distillation",
    "DistillationDataset": "autodistill.standalone.stored_predictions",
    "Distiller": "autodistill.distiller",
    "Family": "autodistill.models.families",
    "FlashDistillationConfig": "autodistill.config.flash_distillation",
    "FloatRange": "search_spaces.domains",
    "InitializationConfig": "autodistill.config.initialization",
    "IntRange": "search_spaces.domains",
    "IntermediateLayersKnowledgeDistillationLoss": "autodistill.losses.intermediate_layers",
    "KLDivCallback": "autodistill.standalone.callbacks",
    "KLDivLoss": "autodistill.losses.modules",
    "KnowledgeDistillationLoss": "autodistill.losses.knowledge_distillation",
    "LabelLossCallback": "autodistill.standalone.callbacks",
    "LayerNotFoundError": "autodistill.errors",
    "LossCallback": "autodistill.standalone.callbacks",
    "MSEHiddenStatesCallback": "autodistill.standalone.callbacks",
    "MSEHiddenStatesLoss": "autodistill.losses.modules",
    "Metric": "autodistill.metrics.metric",
    "NonFiniteError": "autodistill.errors",
    "Observation": "advisors.base",
    "PhaseConfig": "autodistill.config.phase",
    "RegularDistillationConfig": "autodistill.config.regular_distillation",
    "RelationalLoss": "autodistill.losses.relational",
    "SamplerAdvisor": "advisors.sampler",
    "SearchConfig": "autodistill.config.search",
    "SearchDirectoryError": "autodistill.errors",
    "SearchResult": "autodistill.search.result",
    "SearchSpace": "search_spaces.space",
    "SearchSpaceError": "autodistill.errors",
    "SearchStoppedError": "autodistill.errors",
    "SpaceExhaustedError": "autodistill.errors",
    "Trial": "autodistill.search.trial",
    "TrialError": "autodistill.errors",
    "TrialState": "autodistill.search.trial",
    "create_advisor": "advisors.registry",
    "distillation_loss": "autodistill.losses.functions",
    "evaluate_distillation": "autodistill.standalone.evaluation",
    "explain_mapping": "autodistill.report.mapping_table",
    "initialize_from_teacher": "autodistill.initialization.from_teacher",
    "measure": "autodistill.metrics.measure",
    "results_table": "autodistill.report.terminal",
    "save_predictions": "autodistill.standalone.stored_predictions",
}

__all__ = [
    "Advisor",
    "AdvisorError",
    "AdvisorSampler",
    "AnnealedTemperature",
    "Architecture",
    "AttentionHiddenStatesCallback",
    "AttentionLoss",
    "AutoDistillation",
    "AutoDistillationConfig",
    "AutoDistillationError",
    "AutoDistillationMixin",
    "AutoDistillationTrainer",
    "BayesianAdvisor",
    "Choice",
    "ConfigurationError",
    "DepthwiseSeparableStudent",
    "DistilRunner",
    "DistillationConfig",
    "DistillationDataset",
    "Distiller",
    "Family",
    "FlashDistillationConfig",
    "FloatRange",
    "InitializationConfig",
    "IntRange",
    "IntermediateLayersKnowledgeDistillationLoss",
    "KLDivCallback",
    "KLDivLoss",
    "KnowledgeDistillationLoss",
    "LabelLossCallback",
    "LayerNotFoundError",
    "LossCallback",
    "MSEHiddenStatesCallback",
    "MSEHiddenStatesLoss",
    "Metric",
    "NonFiniteError",
    "Observation",
    "PhaseConfig",
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
    "Trial",
    "TrialError",
    "TrialState",
    "create_advisor",
    "distillation_loss",
    "evaluate_distillation",
    "explain_mapping",
    "initialize_from_teacher",
    "measure",
    "results_table",
    "save_predictions",
]
