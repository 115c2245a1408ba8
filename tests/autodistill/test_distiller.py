"""The built-in training by the contract of a training: check, train, describe."""

from __future__ import annotations

import copy
import json

import elastic_search
import pytest
import torch
from safetensors import safe_open
from small_models import Transformer
from transformers import BertConfig, BertForSequenceClassification

from autodistill.config import AutoDistillationConfig
from autodistill.distillation.checkpoints import Checkpoints
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.training import NoReport, StageRecord, Training, TrainingContext


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def make_distiller(search=None, regular_engine=None, **sections) -> Distiller:
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(4, 5, 8, generator=generator), torch.randint(0, 10, (4,), generator=generator)) for _ in range(3)
    ]
    search = {"search_space": {"width": [8]}, "metrics": ["loss"]} | (search or {})
    config = AutoDistillationConfig.load({"search": search} | sections)
    engine = {} if regular_engine is None else {"regular_engine": regular_engine}
    return Distiller(seeded(lambda: Transformer(12, 4), 1), config, data, torch.device("cpu"), **engine)


BOTH = {"flash_distillation": {"train_steps": 3}, "regular_distillation": {"train_steps": 3}}
FED = {"flash_distillation": {"train_steps": 3, "inputs": "teacher"}, "regular_distillation": {"train_steps": 3}}


def student(width=8):
    return seeded(lambda: Transformer(width, 2))


def assert_identical(left, right) -> None:
    for (name, a), (_, b) in zip(left.state_dict().items(), right.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_the_student_is_trained_in_place_with_a_record_for_each_stage() -> None:
    training: Training = make_distiller(**BOTH)
    model = student()
    trained = training.train(model, TrainingContext(seed=0))
    assert training.keeps_size
    assert trained.model is model
    assert [(record.stage, record.mode) for record in trained.stages] == [
        ("layers.0", "replay"),
        ("layers.1", "replay"),
        ("regular distillation", None),
    ]


def test_two_calls_with_a_stop_after_flash_train_as_one_call_does(tmp_path) -> None:
    whole, parts = student(), student()
    expected = make_distiller(**BOTH).train(whole, TrainingContext(seed=0)).stages
    first = make_distiller(**BOTH).train(parts, TrainingContext(0, checkpoint_directory=tmp_path, flash_only=True))
    parts = student()
    second = make_distiller(**BOTH).train(parts, TrainingContext(0, checkpoint_directory=tmp_path))
    assert first.stages == expected[:2]
    assert second.stages == expected
    assert_identical(parts, whole)


@pytest.mark.parametrize(("sections", "width"), [(BOTH, 8), (FED, 12)], ids=["replay", "teacher-fed"])
def test_checkpoints_with_records_of_earlier_versions_are_read(tmp_path, sections, width) -> None:
    """They hold every field, also those without a value."""
    whole = student(width)
    expected = make_distiller(**sections).train(whole, TrainingContext(0, checkpoint_directory=tmp_path)).stages
    for path in tmp_path.glob("flash-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            content = json.loads(file.metadata()["record"])
        for record in content.get("records") or [content["record"]]:
            record.setdefault("reason", None)
        Checkpoints(tmp_path).save(path.stem, tensors, content)
    resumed = student(width)
    again = make_distiller(**sections).train(resumed, TrainingContext(1, checkpoint_directory=tmp_path)).stages
    assert again == expected
    assert_identical(resumed, whole)


def test_another_engine_may_run_regular_distillation() -> None:
    tasks = []

    class Engine:
        def __init__(self, task) -> None:
            tasks.append(task)

        def run(self, context):
            return [StageRecord(tasks[-1].stage.name, 1.0, 0.5, mode="elsewhere", steps=context.seed)]

    model = student()
    stages = make_distiller(regular_engine=Engine, **BOTH).train(model, TrainingContext(seed=5)).stages
    assert stages[-1] == StageRecord("regular distillation", 1.0, 0.5, mode="elsewhere", steps=5)
    assert tasks[0].student is model


def test_check_raises_every_problem_and_trains_nothing() -> None:
    wrong = {"layer_mappings_for_knowledge_transfer": [("heads", "head"), ("head", "tail")], "train_steps": 3}
    model = student()
    before = copy.deepcopy(model)
    make_distiller(**BOTH).check(model)
    with pytest.raises(ConfigurationError) as caught:
        make_distiller(regular_distillation=wrong).check(model)
    assert len(caught.value.problems) == 2
    assert_identical(model, before)


@pytest.mark.parametrize(("promote", "warned"), [(None, False), (0.5, True)])
def test_check_warns_of_untrained_modules_if_students_are_compared_after_flash(caplog, promote, warned) -> None:
    search = {} if promote is None else {"promote": promote}
    make_distiller(search, **BOTH).check(student())
    assert ("leaves embedding, head as model_builder made them" in caplog.text) == warned


def test_the_description_is_of_the_phases_the_loss_function_and_the_flash_set() -> None:
    described = json.loads(json.dumps(make_distiller(**BOTH).describe()))
    assert described["distillation"].keys() == {"flash_distillation", "regular_distillation", "loss_func"}
    assert described["distillation"]["flash_distillation"]["train_steps"] == 3
    assert described["distillation"]["loss_func"] == "torch.nn.functional.cross_entropy"
    assert described["environment"].keys() == {"flash_set"}


@pytest.mark.parametrize("kind", ["SP", "PKT", "CCKD", "VID"])
def test_both_phases_train_with_every_loss_between_features(kind: str) -> None:
    mapped = {"layer_mappings_for_knowledge_transfer": [("layers.1", "layers.3")], "loss_types": kind}
    sections = {
        "flash_distillation": {"train_steps": 31, "learning_rate": 1e-2, "loss_types": kind},
        "regular_distillation": mapped | {"train_steps": 31, "learning_rate": 1e-2},
    }
    trained = make_distiller(**sections).train(student(), TrainingContext(seed=0))
    assert [record.mode for record in trained.stages] == ["replay", "replay", None]
    assert all(record.last_loss < record.first_loss for record in trained.stages)


@pytest.mark.parametrize("kind", ["DIST", "LSKD", "DKD", ["CE", "DIST"], ["CE", "LSKD"], ["CE", "DKD"]], ids=str)
def test_regular_distillation_trains_with_every_loss_between_logits(kind) -> None:
    sections = {"regular_distillation": {"train_steps": 31, "learning_rate": 1e-2, "loss_types": kind}}
    (record,) = make_distiller(**sections).train(student(), TrainingContext(seed=0)).stages
    assert record.last_loss < record.first_loss


def test_device_may_be_named() -> None:
    distiller = make_distiller(**BOTH)
    expected, named = student(), student()
    distiller.train(expected, TrainingContext(seed=0))
    by_name = Distiller(distiller.teacher, distiller.config, distiller.train_dataloader, "cpu")
    by_name.train(named, TrainingContext(seed=0))
    assert_identical(named, expected)
    with pytest.raises(ConfigurationError, match="device must be 'auto' or one that PyTorch can use, but 'gpu'"):
        Distiller(distiller.teacher, distiller.config, distiller.train_dataloader, "gpu")


def adam_by_hand(weight, gradient, rate, epsilon):
    """The first step of Adam, whose moments cancel their bias corrections."""
    return weight - rate * gradient / (gradient.abs() + epsilon)


def test_adam_divides_by_zero_in_float16_and_such_students_are_refused() -> None:
    assert torch.tensor(1e-8, dtype=torch.float16) == 0
    zero = torch.zeros(1, dtype=torch.float16)
    assert adam_by_hand(zero, zero, 1e-3, torch.tensor(1e-8, dtype=torch.float16)).isnan()
    with pytest.raises(ConfigurationError, match=r"trained weights must be float32.*mixed_precision='fp16'"):
        make_distiller(**BOTH).check(student().half())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sections", [BOTH, FED | {"init": "teacher"}])
def test_float32_student_of_a_half_precision_teacher_is_trained_as_if_its_weights_were_float32(half, sections) -> None:
    """The teacher's weights are the same numbers in both; only its activations are rounded."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    options = {"vocab_size": 30, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher = seeded(lambda: BertForSequenceClassification(BertConfig(**sizes, **options))).to(half)
    generator = torch.Generator().manual_seed(0)
    data = [
        {"input_ids": torch.randint(1, 30, (8, 6), generator=generator), "labels": torch.tensor([0, 1] * 4)}
        for _ in range(3)
    ]
    students = []
    for precise in (teacher, copy.deepcopy(teacher).float()):
        config = AutoDistillationConfig.load({"search": {"search_space": {"x": [1]}, "metrics": ["l"]}} | sections)
        made = TransformersBuilder(BertForSequenceClassification, precise.config)
        students.append(seeded(lambda made=made: made({"num_hidden_layers": 1})))
        distiller = Distiller(precise, config, data, torch.device("cpu"))
        distiller.check(students[-1])
        distiller.train(students[-1], TrainingContext(seed=0))
    for left, right in zip(*(student.parameters() for student in students), strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left, right, rtol=0, atol=0.02)


def test_small_steps_change_every_weight_in_float32_and_few_in_bfloat16() -> None:
    def changed(dtype: str) -> float:
        model = TransformersBuilder(BertForSequenceClassification, BertConfig(dtype=torch.bfloat16, **SMALL_BERT))(
            {} if dtype == "" else {"dtype": dtype}
        )
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0)
        tokens = torch.arange(30).repeat(2, 1)
        for _ in range(20):
            optimizer.zero_grad()
            model(tokens, token_type_ids=tokens % 2, labels=torch.tensor([0, 1])).loss.backward()
            optimizer.step()
        pairs = list(zip(model.parameters(), before, strict=True))
        return sum(int((now != old).sum()) for now, old in pairs) / sum(old.numel() for _, old in pairs)

    torch.manual_seed(0)
    assert changed("") > 0.95
    assert changed("bfloat16") < 0.4


SMALL_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 30,
    "max_position_embeddings": 30,
}


def test_key_that_forward_lacks_is_a_mistake_of_the_set_up() -> None:
    distiller = make_distiller(**BOTH)
    data = [{"tokens": inputs, "index": torch.arange(4)} for inputs, _ in distiller.train_dataloader]
    other = Distiller(distiller.teacher, distiller.config, data, "cpu")
    with pytest.raises(ConfigurationError) as caught:
        other.check(student())
    assert len(caught.value.problems) == 2
    for owner in ("student", "teacher"):
        assert (
            f"the {owner}'s Transformer.forward takes tokens, and the batch also holds 'index'; leave it out in the "
            "data (collate_fn), or add it to the forward."
        ) in str(caught.value)


def test_settings_of_an_elastic_student_are_described_with_those_of_its_loss_only(tmp_path) -> None:
    def described(**regular) -> tuple[object, str]:
        config = elastic_search.make_config(regular=regular)
        made = elastic_search.make_search(tmp_path, config)._distiller(read_only=True)
        return made.describe()["distillation"], made._describe_elastic()

    recorded, text = described()
    assert {"elastic", "init", "regular_distillation"} <= recorded.keys()
    assert described(train_steps=9, learning_rate=0.5)[1] == text
    assert described(temperature=3.0)[1] != text
    assert "elastic" not in make_distiller(**BOTH).describe()["distillation"]


def test_mistakes_in_the_loss_and_in_the_slices_are_in_one_error(tmp_path) -> None:
    regular = {"layer_mappings_for_knowledge_transfer": [["nowhere", "nowhere"]]}
    config = elastic_search.make_config({"hidden_size": [8]}, regular=regular)
    distiller = elastic_search.make_search(tmp_path, config)._distiller(read_only=True)
    with pytest.raises(ConfigurationError) as caught:
        distiller.check(elastic_search.bert({"hidden_size": 8}))
    assert "'nowhere'" in caught.value.problems[0]
    assert "elastic" in caught.value.problems[-1]
    assert len(set(caught.value.problems)) == len(caught.value.problems)


def test_elastic_student_is_trained_once_and_its_slices_are_what_training_starts_from(tmp_path) -> None:
    distiller = elastic_search.make_search(tmp_path)._distiller()
    reported = []

    class Report(NoReport):
        def stage(self, name: str, steps: int) -> None:
            reported.append(name)

    distiller.prepare(Report())
    stages = len(reported)
    assert stages
    distiller.prepare(Report())
    assert len(reported) == stages
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 6}
    first, second = elastic_search.bert(sizes), elastic_search.bert(sizes)
    trained = distiller.train(first, TrainingContext(seed=0, flash_only=True))
    assert trained.stages == ()
    distiller.elastic.write(second)
    assert_identical(first, second)
    assert distiller.elastic_batches == 8
    assert make_distiller(**BOTH).elastic is None
    make_distiller(**BOTH).prepare(Report())
    assert len(reported) == stages


def test_teacher_runs_in_the_precision_of_an_elastic_student_alone(tmp_path) -> None:
    config = elastic_search.make_config(elastic={"mixed_precision": "bf16"}, regular=False)
    assert elastic_search.make_search(tmp_path, config)._distiller(read_only=True).mixed_precision == "bf16"
    both = elastic_search.make_config(elastic={"mixed_precision": "bf16"})
    assert elastic_search.make_search(tmp_path, both)._distiller(read_only=True).mixed_precision == "no"


def test_slices_are_finished_with_a_smaller_learning_rate_unless_one_is_configured(tmp_path) -> None:
    distiller = elastic_search.make_search(tmp_path)._distiller(read_only=True)
    assert distiller.phases.regular.learning_rate == 5e-4
    assert distiller.describe()["distillation"]["regular_distillation"]["learning_rate"] == 5e-4
    configured = elastic_search.make_config(regular={"learning_rate": 1e-3})
    chosen = elastic_search.make_search(tmp_path, configured)._distiller(read_only=True)
    assert chosen.phases.regular.learning_rate == 1e-3
    assert make_distiller(**BOTH).phases.regular.learning_rate == 1e-3
