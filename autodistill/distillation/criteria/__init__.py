"""Criteria: what flash and regular distillation minimise, and what anyone's training loop can."""

from autodistill.distillation.criteria.base import Criterion, Features
from autodistill.distillation.criteria.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.distillation.criteria.knowledge_distillation import KnowledgeDistillationLoss

__all__ = [
    "Criterion",
    "Features",
    "IntermediateLayersKnowledgeDistillationLoss",
    "KnowledgeDistillationLoss",
]
