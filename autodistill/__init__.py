"""Finds and delivers small, fast students of a large teacher: architecture search with block-by-block distillation.

A name is imported from its module when it is first used.
"""

from autodistill.package_check import check_packages as _check_packages

_check_packages()

from search_spaces.lazy_names import lazy_names as _lazy_names  # noqa: E402

__version__ = "0.1.0"

_MODULES = {
    "Advisor": "advisors.base",
    "AdvisorError": "autodistill.errors",
    "AdvisorSampler": "advisors.advisor_sampler",
    "AnnealedTemperature": "autodistill.config.temperature",
    "Architecture": "search_spaces.constraints",
    "AttentionHiddenStatesCallback": "autodistill.standalone.callbacks",
    "AttentionLoss": "autodistill.losses.loss_modules",
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
    "ExecutorConfig": "autodistill.config.executor",
    "Family": "autodistill.models.families",
    "FlashDistillationConfig": "autodistill.config.flash_distillation",
    "FloatRange": "search_spaces.domains",
    "ImageFiles": "autodistill.standalone.image_files",
    "InitializationConfig": "autodistill.config.initialization",
    "IntRange": "search_spaces.domains",
    "IntermediateLayersKnowledgeDistillationLoss": "autodistill.losses.intermediate_layers",
    "KLDivCallback": "autodistill.standalone.callbacks",
    "KLDivLoss": "autodistill.losses.loss_modules",
    "KnowledgeDistillationLoss": "autodistill.losses.knowledge_distillation",
    "LabelLossCallback": "autodistill.standalone.callbacks",
    "LayerNotFoundError": "autodistill.errors",
    "LossCallback": "autodistill.standalone.callbacks",
    "MSEHiddenStatesCallback": "autodistill.standalone.callbacks",
    "MSEHiddenStatesLoss": "autodistill.losses.loss_modules",
    "Metric": "autodistill.metrics.metric",
    "NonFiniteError": "autodistill.errors",
    "Observation": "advisors.base",
    "PhaseConfig": "autodistill.config.phase",
    "RegularDistillationConfig": "autodistill.config.regular_distillation",
    "RelationalLoss": "autodistill.losses.relational",
    "RemoteFiles": "autodistill.remote_files",
    "SamplerAdvisor": "advisors.sampler",
    "Scheduler": "autodistill.standalone.scheduler",
    "SearchConfig": "autodistill.config.search",
    "SearchDirectoryError": "autodistill.errors",
    "SearchResult": "autodistill.search.result",
    "SearchSpace": "search_spaces.space",
    "SearchSpaceError": "autodistill.errors",
    "SearchStoppedError": "autodistill.errors",
    "SpaceExhaustedError": "autodistill.errors",
    "StorageError": "autodistill.errors",
    "TeacherChangedError": "autodistill.errors",
    "Trial": "autodistill.search.trial",
    "TrialError": "autodistill.errors",
    "TrialState": "autodistill.search.trial",
    "configure_training": "autodistill.standalone.guide",
    "create_advisor": "advisors.registry",
    "distillation_loss": "autodistill.losses.functions",
    "evaluate_distillation": "autodistill.standalone.evaluation",
    "explain_mapping": "autodistill.report.mapping_table",
    "get_temperature": "autodistill.standalone.guide",
    "initialize_from_teacher": "autodistill.initialization.from_teacher",
    "measure": "autodistill.metrics.measure",
    "online_distillation": "autodistill.standalone.guide",
    "results_table": "autodistill.report.terminal",
    "save_predictions": "autodistill.standalone.stored_predictions",
    "softmax_with_temperature": "autodistill.standalone.guide",
    "train_with_distillation": "autodistill.standalone.guide",
}

__all__ = list(_MODULES)

__getattr__, __dir__ = _lazy_names(__name__, _MODULES)
