"""Teacher and students match: students have the inputs and labels of the teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from saved_teachers import BERT, NAMED, save_teacher, write_lines

from autodistill.cli.models import TaskModels
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError


def models_of(task="text-classification", space=None, **changes):
    data = changes.pop("data", {"train": "train.csv", "validation": 0.5, "batch_size": 4})
    search = {"search_space": space or {"num_hidden_layers": [1, 2]}, "metrics": ["parameters"]}
    config = {"task": task, "teacher": "teacher", "data": data, "auto_distillation": {"search": search}}
    return TaskModels(CommandConfig.load(config | changes))


def test_student_of_another_model_type_has_the_inputs_and_labels_of_the_teacher(classifier):
    config = models_of(student="distilbert", space={"n_layers": [1]}).student_config
    assert config.model_type == "distilbert"
    assert (config.vocab_size, config.max_position_embeddings) == (26, 12)
    assert config.label2id == NAMED["label2id"]
    assert config.dim == transformers.DistilBertConfig().dim  # its sizes are its own


def test_student_that_embeds_is_projected_to_the_width_of_the_teacher():
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "BertModel", **BERT)
    models = models_of("sentence-embedding", data={"train": "lines.txt"})
    student = models.build({"hidden_size": 8})
    assert (student.projection.in_features, student.projection.out_features) == (8, 16)


def test_missing_model_is_refused(classifier):
    with pytest.raises(ConfigurationError, match="student: AutoConfig must be able to load 'no/model', from a folder"):
        _ = models_of(student="no/model").student_config


def test_pickled_weights_are_not_read(classifier):
    weights = Path("teacher/model.safetensors")
    torch.save(transformers.AutoModel.from_pretrained("teacher").state_dict(), "teacher/pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigurationError, match="teacher: AutoModelForSequenceClassification must be able to load"):
        _ = models_of().teacher
