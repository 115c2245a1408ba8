"""The file that `init` writes is a complete configuration, for every task and family."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
import yaml
from saved_teachers import BERT, save_teacher

from autodistill.cli.tasks import TASKS
from autodistill.cli.template import Choices, configuration_text
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.integrations.huggingface.spaces import FAMILIES_WITH_SPACE, transformers_space
from search_spaces import SearchSpaceError

FILE = Path("search.yaml")


def read(task, **options):
    return CommandConfig.load(yaml.safe_load(configuration_text(task, FILE, Choices(**options))))


@pytest.mark.parametrize("task", TASKS)
def test_text_is_a_configuration_of_the_task(task):
    config = read(task)
    search = config.auto_distillation.search
    assert config.task == task
    assert [metric.name for metric in search.metrics] == [TASKS[task].metric, "latency", "parameters"]
    assert search.search_space == transformers_space(TASKS[task].family)


@pytest.mark.parametrize("family", FAMILIES_WITH_SPACE)
def test_space_is_that_of_the_family(family):
    config = read("masked-lm", student=family)
    assert config.student == family
    assert config.auto_distillation.search.search_space == transformers_space(family)
    assert (config.auto_distillation.init is not None) == (family == "bert")


@pytest.mark.parametrize("family", FAMILIES_WITH_SPACE)
def test_every_architecture_of_the_space_can_be_built(family):
    space = transformers_space(family)
    builder = TransformersBuilder(transformers.AutoModel, transformers.AutoConfig.for_model(family))
    assert builder.feasible(space).size == space.size


def test_space_is_limited_to_the_teacher_and_arguments_are_in_the_file():
    folder = save_teacher(Path("a teacher: small # and odd"), "BertForMaskedLM", **BERT)
    config = read("masked-lm", teacher=str(folder), train="texts.txt", validation="held: out.txt")
    assert config.teacher == str(folder)
    assert (config.data.train, config.data.validation) == ("texts.txt", "held: out.txt")
    space = config.auto_distillation.search.search_space
    assert space == transformers_space("bert", {"model_type": "bert", **BERT})


def test_students_that_embed_start_with_their_projection_and_learn_the_embeddings():
    config = read("sentence-embedding").auto_distillation
    assert config.init.projection_head == "projection"
    assert config.regular_distillation.loss_types == "cosine"


def test_missing_teacher_is_refused():
    with pytest.raises(ConfigurationError, match=r"--teacher must be a folder with a config.json .* 'no/such/teacher'"):
        read("masked-lm", teacher="no/such/teacher")


def test_family_without_a_space_is_refused():
    folder = save_teacher(Path("teacher"), "BertForMaskedLM", **BERT)
    with pytest.raises(SearchSpaceError, match="but got 'albrt'"):
        read("masked-lm", teacher=str(folder), student="albrt")


def test_a_teacher_of_an_unknown_family_is_refused_with_what_to_do_instead():
    folder = Path("albert")
    transformers.AlbertConfig(hidden_size=16, num_hidden_layers=4).save_pretrained(folder)
    for student in (None, "bert"):
        with pytest.raises(ConfigurationError) as error:
            read("masked-lm", teacher=str(folder), student=student)
        (sentence,) = error.value.problems
        assert "but 'albert' is of 'albert'; run `autodistill init masked-lm` without --teacher" in sentence
        assert "(num_hidden_layers: [2, 4], hidden_size: [8, 16])" in sentence
    assert read("masked-lm", teacher=str(folder), student="mobilebert").student == "mobilebert"


def test_the_file_edited_as_the_refusal_asks_is_a_configuration_of_that_teacher():
    content = yaml.safe_load(configuration_text("masked-lm", FILE, Choices()))
    search = content["auto_distillation"]["search"]
    search["search_space"] = {"num_hidden_layers": [2, 4], "hidden_size": [8, 16]}
    search.pop("constraints", None)
    content["auto_distillation"].pop("init")
    config = CommandConfig.load(content | {"teacher": "albert"})
    builder = TransformersBuilder(
        transformers.AutoModelForMaskedLM,
        transformers.AlbertConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2),
    )
    assert builder.feasible(config.auto_distillation.search.search_space).size == 4


def test_elastic_students_are_slices_of_one_another_and_have_no_flash_distillation() -> None:
    config = read("sentence-embedding", elastic=True).auto_distillation
    space = config.the_search().search_space
    assert config.elastic is not None
    assert config.flash_distillation is None
    assert config.the_search().promote == 1 / 20
    heads = {a["hidden_size"] // a["num_attention_heads"] for a in space.enumerate()}
    assert len(heads) == 1


def test_elastic_students_of_another_family_than_the_teachers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"--elastic: students are slices .* but are 'gpt2'; leave"):
        configuration_text("sentence-embedding", FILE, Choices(student="gpt2", elastic=True))
