"""The models of a configuration: the teacher with its preprocessor, and the students that can be built from it."""

from __future__ import annotations

import copy
import inspect
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig

from autodistill.cli.sentence_encoder import SentenceEncoder
from autodistill.cli.tasks import TASKS, Task
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from search_spaces import Architecture, SearchSpace

_SHARED = (  # fields that students take from the teacher: both read the same batches
    "vocab_size",
    "type_vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "max_position_embeddings",
    "image_size",
    "num_channels",
    "id2label",
    "label2id",
    "problem_type",
)
_NO_LIMIT = 10**6  # tokenizers without a maximum report a huge number


class TaskModels:
    """The teacher and the students of one configuration, each loaded when it is first used.

    Args:
        config: the configuration of the command line.

    Raises:
        ConfigurationError: every attribute raises it if the model or preprocessor cannot be loaded or does not fit.
    """

    def __init__(self, config: CommandConfig) -> None:
        self.config = config
        self.task: Task = TASKS[config.task]

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher, in eval mode."""
        source = self.config.teacher
        if self._embeds:
            return cast(nn.Module, _load(SentenceEncoder, "teacher", source)).eval()
        # other formats are pickles
        loaded = _load(self._auto, "teacher", source, use_safetensors=True, output_loading_info=True)
        teacher: nn.Module = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            raise ConfigurationError(
                f"teacher: must be trained for {self.config.task}, but {source!r} has no weights for "
                f"{', '.join(map(repr, missing[:3]))}{', …' if len(missing) > 3 else ''}; train it on the task first."
            )
        return teacher.eval()

    @cached_property
    def preprocessor(self) -> Any:
        """The teacher's tokenizer or image processor."""
        kind = AutoImageProcessor if "image" in self.task.columns else AutoTokenizer
        preprocessor = _load(kind, "teacher", self.config.teacher)
        if kind is AutoTokenizer and len(preprocessor) <= len(preprocessor.all_special_ids):
            raise ConfigurationError(
                f"teacher: must come with its tokenizer, but {self.config.teacher!r} has none with a vocabulary; save "
                "it there with tokenizer.save_pretrained."
            )
        if getattr(preprocessor, "pad_token", "") is None:
            preprocessor.pad_token = preprocessor.eos_token
        return preprocessor

    @property
    def teacher_config(self) -> PreTrainedConfig:
        """The configuration of the teacher's transformers model."""
        config: PreTrainedConfig = self._transformer(self.teacher).config
        return config

    @cached_property
    def student_config(self) -> PreTrainedConfig:
        """The configuration from which those of students are derived."""
        source = self.config.student
        if source is None:
            return copy.deepcopy(self.teacher_config)
        known_type = source in transformers.CONFIG_MAPPING and not Path(source).exists()
        config: PreTrainedConfig = AutoConfig.for_model(source) if known_type else _load(AutoConfig, "student", source)
        for name in _SHARED:
            if hasattr(config, name) and hasattr(self.teacher_config, name):
                setattr(config, name, copy.deepcopy(getattr(self.teacher_config, name)))
        return config

    @cached_property
    def builder(self) -> TransformersBuilder:
        """The builder of the students' transformers models."""
        return TransformersBuilder(self._auto, self.student_config)

    def build(self, architecture: Architecture) -> nn.Module:
        """Build a student; a sentence encoder has a projection to the width of the teacher's embeddings."""
        student: Any = self.builder(architecture)
        if not self._embeds:
            return cast(nn.Module, student)
        teacher: Any = self.teacher
        projection = nn.Linear(student.config.hidden_size, teacher.width, dtype=student.dtype)
        return SentenceEncoder(student, pooling=teacher.pooling, projection=projection, normalize=teacher.normalize)

    def ensure_inside_teacher(self, space: SearchSpace) -> None:
        """Check that the students of a space can start inside the teacher.

        Raises:
            ConfigurationError: they cannot.
        """
        reason = self.builder.start_blocker(self._transformer(self.teacher), space)
        if reason is not None:
            raise ConfigurationError(f"auto_distillation.init: students cannot start inside the teacher; {reason}")

    @property
    def inputs(self) -> list[str]:
        """The features of the preprocessor that teacher and student take."""
        config = self.student_config
        with torch.device("meta"):
            student = self._auto.from_config(config)
        accepted = [inspect.signature(model.forward).parameters for model in (self._transformer(self.teacher), student)]
        names: list[str] = self.preprocessor.model_input_names
        return [name for name in names if all(name in parameters for parameters in accepted)]

    @property
    def max_length(self) -> int:
        """The longest text, in tokens, that the configuration, the preprocessor, the teacher and the student allow."""
        limits = [self.config.data.max_length, getattr(self.preprocessor, "model_max_length", _NO_LIMIT)]
        for config in (self.teacher_config, self.student_config):
            limits.append(getattr(config, "max_position_embeddings", _NO_LIMIT))
        return min(limits)

    @property
    def _auto(self) -> Any:
        return getattr(transformers, self.task.auto_class)

    @property
    def _embeds(self) -> bool:
        return self.config.task == "sentence-embedding"

    def _transformer(self, model: Any) -> Any:
        """The transformers model inside a sentence encoder; otherwise the model itself."""
        return model.model if self._embeds else model


def _load(kind: Any, role: str, source: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(source, **options)
    except ConfigurationError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigurationError(
            f"{role}: {kind.__name__} must be able to load {source!r}, from a folder or the hub, but raised: "
            f"{str(error).splitlines()[0]}"
        ) from error
