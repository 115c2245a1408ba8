"""The configuration of a search: one way in for a dict, a YAML file and typed objects."""

from autodistill.config.auto_distillation import AutoDistillationConfig, ModelConfig
from autodistill.config.reading import read_configuration, read_yaml
from autodistill.config.schema import json_schema
from autodistill.config.search import SearchConfig

__all__ = ["AutoDistillationConfig", "ModelConfig", "SearchConfig", "json_schema", "read_configuration", "read_yaml"]
