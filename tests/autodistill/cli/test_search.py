"""What a configuration stands for: models that go together, batches for both, and a space of what can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from saved_teachers import BERT, GPT2, NAMED, save_teacher, write_csv, write_lines

from autodistill.cli.search import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError


def set_up(task="text-classification", space=None, metrics=("parameters",), init=None, **changes):
    data = changes.pop("data", {"train": "train.csv", "validation": 0.5, "batch_size": 4})
    search = {"search_space": space or {"num_hidden_layers": [1, 2]}, "metrics": list(metrics)}
    config = {"task": task, "teacher": "teacher", "data": data, "auto_distillation": {"search": search, "init": init}}
    return SearchSetup(CommandConfig.load(config | changes))


@pytest.fixture
def classifier():
    write_csv(Path("train.csv"))
    return save_teacher(Path("teacher"), "BertForSequenceClassification", **BERT, **NAMED)


def first_batch(place):
    return next(iter(place.loaders[0]))


def test_student_of_another_model_type_takes_what_the_teacher_reads_and_says(classifier):
    config = set_up(student="distilbert", space={"n_layers": [1]}).student_config
    assert config.model_type == "distilbert"
    assert (config.vocab_size, config.max_position_embeddings) == (26, 12)
    assert config.label2id == NAMED["label2id"]
    assert config.dim == transformers.DistilBertConfig().dim  # its sizes are its own


def test_batch_holds_what_both_models_take(classifier):
    assert set(first_batch(set_up())) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    other = set_up(student="distilbert", space={"n_layers": [1]})
    assert set(first_batch(other)) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize(("wanted", "given"), [(5, 5), (500, 8)])
def test_texts_are_no_longer_than_asked_for_and_than_the_models_read(wanted, given):
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "BertForMaskedLM", **BERT | {"max_position_embeddings": 8})
    data = {"train": "lines.txt", "max_length": wanted, "batch_size": 24, "validation": "lines.txt"}
    assert first_batch(set_up("masked-lm", data=data))["input_ids"].shape == (24, given)


def test_held_out_batches_are_masked_alike_every_time():
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "BertForMaskedLM", **BERT)
    held_out = set_up("masked-lm", data={"train": "lines.txt", "batch_size": 4}).loaders[1]
    first, again = (torch.cat([batch.targets.flatten() for batch in held_out]) for _ in range(2))
    assert torch.equal(first, again)
    assert (first != -100).any()


def test_tokenizer_without_padding_pads_with_its_end_of_text():
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "GPT2LMHeadModel", **GPT2)
    tokenizer = transformers.AutoTokenizer.from_pretrained("teacher")
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained("teacher")
    place = set_up("causal-lm", space={"n_layer": [1]}, data={"train": "lines.txt", "batch_size": 24})
    assert place.preprocessor.pad_token == "[SEP]"
    batch = first_batch(place)
    assert (batch["labels"] == -100).any()  # padding does not count


def test_student_that_embeds_is_projected_to_the_width_of_the_teacher():
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "BertModel", **BERT)
    place = set_up("sentence-embedding", data={"train": "lines.txt"})
    student = place.build({"hidden_size": 8})
    assert (student.projection.in_features, student.projection.out_features) == (8, 16)


def test_architectures_that_cannot_be_built_are_left_out(classifier):
    place = set_up(space={"hidden_size": [8, 9], "num_attention_heads": [1, 2]})
    assert place.settings.search.search_space.size == 3  # two heads do not divide nine


def test_start_inside_a_teacher_that_is_narrower_is_refused(classifier):
    with pytest.raises(ConfigurationError, match=r"cannot start inside the teacher; of .*the student is wider"):
        _ = set_up(space={"hidden_size": [32]}, init="teacher").settings


def test_model_that_is_not_there_is_told(classifier):
    with pytest.raises(ConfigurationError, match="student: AutoConfig must be able to load 'no/model', from a folder"):
        _ = set_up(student="no/model").student_config


def test_pickled_weights_are_not_read(classifier):
    weights = Path("teacher/model.safetensors")
    torch.save(transformers.AutoModel.from_pretrained("teacher").state_dict(), "teacher/pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigurationError, match="teacher: AutoModelForSequenceClassification must be able to load"):
        _ = set_up().teacher
