"""Regular distillation agrees with a plainly written loop."""

from __future__ import annotations

import copy
import math
import shutil

import pytest
import torch
import transformers
from independent_losses import joined_divergence
from interruptions import Killed, count_steps
from shuffled_samples import assert_equal, distil, shuffled
from shuffled_samples import make_distiller as make_shuffled_distiller
from small_models import Counted, Transformer
from torch import nn
from toy_search import make_loader
from transformers import (
    BertConfig,
    ElectraConfig,
    ElectraForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    get_scheduler,
)

from autodistill.config import AutoDistillationConfig
from autodistill.config.temperature import AnnealedTemperature
from autodistill.data_stream import DataStream
from autodistill.distiller import Distiller, Storage
from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.seeds import derive_seed
from autodistill.training import TrainingContext

SEED = 42  # the search's, by default


def make_distiller(teacher, **regular):
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"], "seed": SEED},
            "regular_distillation": {"train_steps": 14, "learning_rate": 0.05, "optimizer": "SGD"} | regular,
        }
    )
    return Distiller(teacher, config, make_loader(), torch.device("cpu"))


def naive_regular(student, teacher, batches, steps, seed, temperature_at, own_loss_weight):
    """KL between the logits with the temperature of each step, and the student's own loss; SGD, linear schedule."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=round(0.1 * steps), num_training_steps=steps)
    student.train()
    for step in range(steps):
        inputs, targets = next(batches).content
        torch.manual_seed(derive_seed(derive_seed(seed, "regular"), step))
        temperature = temperature_at(step / steps)
        with torch.no_grad():
            expected = teacher.eval()(inputs)
        logits = student(inputs)
        soft = nn.functional.log_softmax(logits / temperature, dim=-1)
        kl = nn.functional.kl_div(
            soft, nn.functional.log_softmax(expected / temperature, dim=-1), reduction="batchmean", log_target=True
        )
        loss = temperature**2 * kl + own_loss_weight * nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return student.eval()


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


@pytest.mark.parametrize(
    ("temperature", "at"),
    [
        (2.0, lambda progress: 2.0),
        (AnnealedTemperature(start=5, end=1), lambda progress: 1 + 4 * (1 - progress)),
        (AnnealedTemperature(start=4, end=2, shape="cosine"), lambda p: 2 + (1 + math.cos(math.pi * p))),
    ],
    ids=["constant", "linear", "cosine"],
)
@pytest.mark.parametrize("own_loss", [True, False])
def test_the_weights_agree_with_a_plain_loop_over_three_epochs(temperature, at, own_loss):
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    twin = copy.deepcopy(student)
    make_distiller(teacher, temperature=temperature, add_origin_loss=own_loss).train(student, TrainingContext(seed=7))
    with torch.random.fork_rng():
        naive_regular(twin, teacher, iter(DataStream(make_loader(), SEED)), 14, 7, at, float(own_loss))
    for (name, a), (_, b) in zip(student.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("weights", [None, [1.0, 1.0]])
def test_a_pair_of_losses_is_that_of_the_labels_and_that_of_the_teacher(weights):
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    twin = copy.deepcopy(student)
    pair = {"loss_types": ["CE", "KL"]} | ({} if weights is None else {"loss_weights": weights})
    (record,) = make_distiller(teacher, temperature=2.0, **pair).train(student, TrainingContext(seed=7)).stages
    assert record.stage == "regular distillation"
    with torch.random.fork_rng():
        naive_regular(twin, teacher, iter(DataStream(make_loader(), SEED)), 14, 7, lambda progress: 2.0, 1.0)
    for (name, a), (_, b) in zip(student.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_soft_cross_entropy_trains_as_the_divergence_does():
    teacher = seeded(lambda: Transformer(16, 4))
    students = {kind: seeded(lambda: Transformer(12, 2), 1) for kind in ("CE", "KL")}
    for kind, student in students.items():
        make_distiller(teacher, temperature=2.0, loss_types=["CE", kind], loss_weights=[0.5, 0.5]).train(
            student, TrainingContext(seed=7)
        )
    for (name, a), (_, b) in zip(*(student.state_dict().items() for student in students.values()), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_a_teacher_of_no_weight_never_runs():
    teacher = Counted(seeded(lambda: Transformer(16, 4)))
    student = seeded(lambda: Transformer(12, 2), 1)
    (record,) = (
        make_distiller(teacher, loss_types=["CE", "CE"], loss_weights=[1.0, 0.0])
        .train(student, TrainingContext(seed=0))
        .stages
    )
    assert teacher.forwards == 0
    assert record.last_loss < record.first_loss


def test_every_parameter_trains_and_the_teacher_does_not():
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    before, teacher_before = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    make_distiller(teacher).train(student, TrainingContext(seed=0))
    assert not any(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, teacher_before[name]) for name, value in teacher.state_dict().items())


def test_batches_that_recur_in_a_later_trial_cost_no_teacher_forward():
    teacher = Counted(seeded(lambda: Transformer(16, 4)))
    distiller = make_distiller(teacher)
    distiller.train(seeded(lambda: Transformer(12, 2)), TrainingContext(seed=0))
    after_one = teacher.forwards
    distiller.train(seeded(lambda: Transformer(8, 1)), TrainingContext(seed=1))
    epoch = len(make_loader())
    assert teacher.forwards == after_one == epoch + 1  # and a part of the first batch, to see what it depends on


def test_the_student_is_in_eval_mode_and_its_frozen_parameters_are_unchanged():
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    student.embedding.requires_grad_(False)
    before = student.embedding.weight.clone()
    make_distiller(teacher).train(student, TrainingContext(seed=0))
    assert not student.training
    assert torch.equal(student.embedding.weight, before)
    assert [p.requires_grad for p in student.embedding.parameters()] == [False, False]
    assert all(p.requires_grad for p in student.head.parameters())


def test_nan_of_the_teacher_is_named_in_the_error():
    teacher = seeded(lambda: Transformer(12, 2))
    teacher.head.bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="; the teacher's features already hold NaN for batch 0: find its cause"):
        make_distiller(teacher).train(seeded(lambda: Transformer(12, 1), 1), TrainingContext(seed=0))


class Returning(nn.Linear):
    """Returns a loss and logits as a tuple."""

    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, x):
        logits = super().forward(x)
        return logits.mean(), logits


# --- predictions of other tasks, by default settings ------------------------------------------------------------------

SIZES = {"vocab_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert_for(task: str, width: int, **settings) -> nn.Module:
    config = BertConfig(**SIZES, hidden_size=width, initializer_range=0.5, **settings)
    return seeded(lambda: getattr(transformers, f"BertFor{task}")(config), width)


def first_regular_loss(task: str, labels: dict, **settings) -> tuple[float, dict, dict, float]:
    """The engine's first loss; the outputs of the student and the teacher, and the student's own loss."""
    student, teacher = bert_for(task, 8, **settings), bert_for(task, 16, **settings)
    batch = {"input_ids": torch.randint(1, 20, (4, 5), generator=torch.Generator().manual_seed(0)), **labels}
    without_dropout(student)
    with torch.no_grad():
        outputs, expected = student(**batch), teacher.eval()(**batch)
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 1, "temperature": 2.0},
        }
    )
    distiller = Distiller(teacher, config, [batch], torch.device("cpu"))
    (record,) = distiller.train(student, TrainingContext(seed=0)).stages
    return record.first_loss, outputs, expected, float(outputs["loss"])


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0) -> float:
    p = (teacher.double() / temperature).softmax(-1)
    q = (student.double() / temperature).softmax(-1)
    return float(temperature**2 * (p * (p.log() - q.log())).sum(-1).mean())


def test_all_logits_of_an_answer_are_distilled_with_its_own_loss():
    labels = {"start_positions": torch.tensor([0, 1, 2, 3]), "end_positions": torch.tensor([1, 2, 3, 4])}
    loss, student, teacher, own = first_regular_loss("QuestionAnswering", labels)
    terms = [divergence(student[key], teacher[key]) for key in ("start_logits", "end_logits")]
    assert loss == pytest.approx(sum(terms) + own, rel=1e-5)
    assert min(terms) > 1e-3


def test_a_regression_is_distilled_by_squared_error():
    labels = {"labels": torch.tensor([0.1, 2.0, -1.0, 0.5])}
    loss, student, teacher, own = first_regular_loss("SequenceClassification", labels, num_labels=1)
    expected = float((student["logits"].double() - teacher["logits"].double()).square().mean())
    assert loss == pytest.approx(expected + own, rel=1e-5)
    assert expected > 1e-3


def test_labels_of_which_several_are_right_are_distilled_by_squared_error():
    labels = {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])}
    settings = {"num_labels": 3, "problem_type": "multi_label_classification"}
    loss, student, teacher, own = first_regular_loss("SequenceClassification", labels, **settings)
    expected = float((student["logits"].double() - teacher["logits"].double()).square().mean())
    assert loss == pytest.approx(expected + own, rel=1e-5)


def test_one_label_for_each_token_is_distilled_by_squared_error():

    def electra(width: int) -> nn.Module:
        config = ElectraConfig(**SIZES, hidden_size=width, initializer_range=0.5)
        return seeded(lambda: ElectraForPreTraining(config), width)

    labels = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 0, 0, 0]])
    batch = {"input_ids": torch.full((2, 5), 3) + labels, "labels": labels}
    config = AutoDistillationConfig.load(
        {"search": {"search_space": {"width": [1]}, "metrics": ["loss"]}, "regular_distillation": {"train_steps": 1}}
    )
    plan = Distiller(electra(16), config, [batch], torch.device("cpu")).resolve(electra(8))
    assert plan.regular is not None
    assert plan.regular.loss_types == ("MSE",)


def test_a_divergence_over_one_class_is_refused():
    student, teacher = nn.Linear(4, 1), nn.Linear(4, 1)
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 1, "loss_types": "KL"},
        }
    )
    distiller = Distiller(teacher, config, [(torch.randn(3, 4), torch.randn(3, 1))], torch.device("cpu"))
    with pytest.raises(ConfigurationError, match=r"there is one class.*use 'MSE'"):
        distiller.resolve(student)


@pytest.mark.parametrize(
    ("student", "message"),
    [(nn.Linear(4, 1), r"one class.*pass loss_func"), (Returning(), r"returns a tuple of 2.*pass loss_func")],
    ids=["one class", "a tuple"],
)
def test_the_default_loss_needs_logits_of_several_classes(student, message):
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 1, "loss_types": "MSE"},
        }
    )
    data = [(torch.randn(3, 4), torch.randn(3, 1))]
    with pytest.raises(ConfigurationError, match=message):
        Distiller(copy.deepcopy(student), config, data, torch.device("cpu")).resolve(student)


# --- the largest logits of the teacher -------------------------------------------------------------------------------

TOP_K, COOL = 6, 2.0
TOKENS = torch.tensor([[5, 9, 3, 7, 11, 2], [4, 8, 6, 13, 0, 0]])
PADDING = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
LABELS = torch.tensor([[-100, -100, 3, 7, 11, 2], [4, 8, 6, 13, -100, -100]])
TARGETS = torch.tensor([[4, 2, 9, -100], [1, 7, -100, -100]])


def gpt2(width: int) -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=8, n_embd=width, n_layer=1, n_head=2, **CAUSAL))


def t5(width: int) -> nn.Module:
    sizes = {"d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0, "initializer_factor": 2.0}
    return T5ForConditionalGeneration(T5Config(vocab_size=30, d_model=width, decoder_start_token_id=0, **sizes))


def ten_labels(width: int) -> nn.Module:
    return without_dropout_of(bert_for("SequenceClassification", width, num_labels=10))


def without_dropout_of(model: nn.Module) -> nn.Module:
    without_dropout(model)
    return model


CAUSAL = {"initializer_range": 0.5, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
WITH_TARGETS = {"input_ids": TOKENS, "attention_mask": PADDING, "labels": TARGETS}
LARGEST = {
    "causal": (gpt2, {"input_ids": TOKENS, "attention_mask": PADDING, "labels": LABELS}),
    "encoder-decoder": (t5, WITH_TARGETS),
    "classification": (ten_labels, {"input_ids": TOKENS, "attention_mask": PADDING, "labels": torch.tensor([3, 8])}),
}
COUNTED = {
    # The next label counts, and the position itself is no padding.
    "causal": torch.tensor([[False, True, True, True, True, False], [True, True, True, False, False, False]]),
    "encoder-decoder": TARGETS != -100,
    "classification": None,
}


def trained_once(make, batch, **settings):
    """The first loss of one step without a learning rate, and the outputs of student and teacher."""
    student, teacher = seeded(lambda: make(8), 1), seeded(lambda: make(16)).eval()
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 1, "temperature": COOL} | settings,
        }
    )
    with torch.no_grad():
        outputs, expected = student.eval()(**batch), teacher(**batch)
    (record,) = Distiller(teacher, config, [batch], torch.device("cpu")).train(student, TrainingContext(seed=0)).stages
    return record.first_loss, outputs, expected, student


@pytest.mark.parametrize("pair", [False, True], ids=["automatic", "pair"])
@pytest.mark.parametrize("kind", LARGEST)
def test_loss_with_top_k_is_the_divergence_of_the_largest_classes_and_the_rest(kind: str, pair: bool) -> None:
    make, batch = LARGEST[kind]
    losses = {"loss_types": ["CE", "KL"], "loss_weights": [0.0, 1.0]} if pair else {"add_origin_loss": False}
    loss, outputs, expected, _ = trained_once(make, batch, top_k=TOP_K, **losses)
    reference = joined_divergence(outputs.logits, expected.logits, COUNTED[kind], COOL, TOP_K)
    assert loss == pytest.approx(reference.item(), rel=1e-5)
    whole = trained_once(make, batch, **losses)[0]
    assert 0.01 < loss < 0.99 * whole


@pytest.mark.parametrize("kind", LARGEST)
def test_with_all_classes_but_one_training_is_that_with_all_logits(kind: str) -> None:
    make, batch = LARGEST[kind]
    classes = make(8)(**batch).logits.shape[-1]
    whole, largest = (
        trained_once(make, batch, optimizer="SGD", learning_rate=0.1, warmup_ratio=0.0, **settings)
        for settings in ({}, {"top_k": classes - 1})
    )
    assert largest[0] == pytest.approx(whole[0], rel=1e-6)
    for (name, a), (_, b) in zip(*(result[3].state_dict().items() for result in (whole, largest)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)
    untrained = seeded(lambda: make(8), 1).state_dict()
    assert not any(torch.equal(whole[3].state_dict()[name], untrained[name]) for name in untrained if "head" in name)


def test_top_k_under_mixed_precision_is_that_of_the_single_precision_of_its_logits() -> None:
    make, batch = LARGEST["causal"]
    settings = {"top_k": TOP_K, "add_origin_loss": False}
    exact, outputs, expected, _ = trained_once(make, batch, **settings)
    rounded = trained_once(make, batch, mixed_precision="bf16", **settings)[0]
    assert rounded == pytest.approx(exact, rel=0.05)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        student, teacher = (
            seeded(lambda width=width, seed=seed: gpt2(width), seed) for width, seed in ((8, 1), (16, 0))
        )
        outputs, expected = student.eval()(**batch), teacher.eval()(**batch)
    assert expected.logits.dtype == torch.bfloat16
    reference = joined_divergence(outputs.logits, expected.logits, COUNTED["causal"], COOL, TOP_K)
    assert rounded == pytest.approx(reference.item(), rel=1e-5)


def test_interrupted_training_with_top_k_resumes_to_the_same_weights(tmp_path, monkeypatch) -> None:
    def distil(directory=None):
        student = seeded(lambda: Transformer(12, 2), 1)
        distiller = make_distiller(seeded(lambda: Transformer(16, 4)), top_k=3, temperature=2.0)
        distiller.config = distiller.config.with_changes(checkpoint_steps=2)
        distiller.train(student, TrainingContext(seed=7, checkpoint_directory=directory))
        return student

    whole = distil()
    with monkeypatch.context() as patch:
        count_steps(patch, die_at=9)
        with pytest.raises(Killed):
            distil(tmp_path)
    steps = count_steps(monkeypatch)
    resumed = distil(tmp_path)
    assert len(steps) == 14 - 8
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_description_of_a_search_has_top_k_only_if_configured() -> None:
    teacher = Transformer(16, 4)
    without, with_it = (make_distiller(teacher, **settings).describe() for settings in ({}, {"top_k": 3}))
    assert "top_k" not in without["distillation"]["regular_distillation"]  # as in directories of earlier versions
    expected = without["distillation"]["regular_distillation"] | {"top_k": 3}
    assert with_it["distillation"]["regular_distillation"] == expected


# --- interruptions, with outputs that are kept by sample --------------------------------------------------------------


def some_texts() -> dict:
    """Ten texts of 2 to 8 tokens; some occur twice."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([8, 3, 5, 2, 7, 8, 4, 6, 3, 5])
    mask = (torch.arange(8) < lengths[:, None]).long()
    ids = torch.randint(1, 20, (10, 8), generator=generator) * mask
    content = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(10) % 3}
    for tensor in content.values():
        tensor[5], tensor[8] = tensor[0], tensor[1]
    return content


def text_model(width: int) -> nn.Module:
    config = BertConfig(**SIZES | {"num_hidden_layers": 2}, hidden_size=width, num_labels=3, initializer_range=0.5)
    config.problem_type = "single_label_classification"
    return seeded(lambda: transformers.BertForSequenceClassification(config), width)


def rounding_teacher(width: int = 16) -> nn.Module:
    """A teacher whose logits show in which batch a sample was computed, as rounding does in larger models."""

    def rounded(module, args, inputs, output):
        samples, length = inputs["input_ids"].shape
        output.logits = output.logits * (1 + 1e-5 * samples + 1e-6 * length)
        return output

    teacher = text_model(width)
    teacher.register_forward_hook(rounded, with_kwargs=True)
    return teacher


FLASH = {"train_steps": 3, "flash_set_gb": 1e-4}


def delete_half(directory) -> None:
    for number, path in enumerate(sorted(directory.rglob("*.safetensors"))):
        if number % 2:
            path.unlink()


LOST = {
    "nothing": lambda directory: None,
    "everything": lambda directory: shutil.rmtree(directory, ignore_errors=True),
    "all samples": lambda directory: shutil.rmtree(directory / "samples", ignore_errors=True),
    "half of the files": delete_half,
}


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("flash", [None, FLASH], ids=["regular", "both phases"])
def test_a_training_killed_at_any_step_ends_with_the_same_weights(tmp_path, monkeypatch, flash, lost) -> None:
    def train(directory):
        storage = Storage(directory / "cache")
        loader = shuffled(some_texts(), 3)
        distiller = make_shuffled_distiller(rounding_teacher(), loader, storage, flash=flash, train_steps=9)
        distiller.config = distiller.config.model_copy(update={"checkpoint_steps": 2})
        return distil(distiller, text_model(8), directory / "checkpoints")

    whole, losses = train(tmp_path / "whole")
    for die_at in (2, 5, 8) if flash is None else (4, 8, 13):
        directory = tmp_path / str(die_at)
        with monkeypatch.context() as patch:
            count_steps(patch, die_at=die_at)
            with pytest.raises(Killed):
                train(directory)
        LOST[lost](directory / "cache")
        resumed, again = train(directory)
        assert again == losses, die_at
        assert_equal(resumed, whole)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("flash", [None, FLASH], ids=["regular", "both phases"])
def test_a_cache_lost_between_two_students_changes_neither(tmp_path, flash, lost) -> None:
    def train(directory, student, *, new=True):
        loader = shuffled(some_texts(), 3)
        teacher = rounding_teacher()
        distiller = make_shuffled_distiller(teacher, loader, Storage(directory), flash=flash, train_steps=9)
        distil(distiller, text_model(12))
        if new:
            LOST[lost](directory)
            distiller = make_shuffled_distiller(teacher, loader, Storage(directory), flash=flash, train_steps=9)
        return distil(distiller, student)

    expected, losses = train(tmp_path / "whole", text_model(8), new=False)
    found, again = train(tmp_path / "lost", text_model(8))
    assert again == losses
    assert_equal(found, expected)
