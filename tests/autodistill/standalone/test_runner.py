"""The runner: the sum it minimises, what it records, and that it equals a loop written out."""

from __future__ import annotations

import copy

import pytest
import torch
from families import seeded
from small_models import ConvolutionalNetwork, Transformer
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from autodistill.config.phase import PhaseConfig
from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.losses.functions import distillation_loss
from autodistill.standalone.callbacks import (
    AttentionHiddenStatesCallback,
    KLDivCallback,
    LabelLossCallback,
    LossCallback,
    MSEHiddenStatesCallback,
)
from autodistill.standalone.runner import DistilRunner


def data(batches: int = 3) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "tokens": torch.randn(8, 5, 8, generator=generator),
            "labels": torch.randint(0, 10, (8,), generator=generator),
        }
        for _ in range(batches)
    ]


def models(student_width: int = 8, depth: int = 2) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return Transformer(student_width, depth, dropout=0.0), Transformer(16, depth)


def test_student_learns_by_the_guides_formula_as_in_a_loop_written_out() -> None:
    student, teacher = models()
    twin = copy.deepcopy(student)
    batches = data()
    settings = PhaseConfig(optimizer="SGD", learning_rate=0.1, scheduler="constant", warmup_ratio=0, max_grad_norm=0.5)
    callbacks = [LabelLossCallback(weight=0.3), KLDivCallback(temperature=2.0, weight=0.7)]
    history = DistilRunner(student, teacher, callbacks, settings).train(batches, steps=6)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin.train()
    for step in range(6):
        batch = batches[step % 3]
        with torch.no_grad():
            targets = teacher.eval()(batch["tokens"])
        loss = distillation_loss(twin(batch["tokens"]), targets, batch["labels"], temperature=2.0, alpha=0.7)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        assert history["loss"][step] == pytest.approx(loss.item(), rel=1e-5)
    for actual, expected in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)


def three_callbacks() -> list[LossCallback]:
    return [
        KLDivCallback(temperature=2.0, weight=0.5),
        MSEHiddenStatesCallback(
            need_mapping=True, teacher_hidden_state_dim=16, student_hidden_state_dim=8, num_layers=3, weight=2.0
        ),
        AttentionHiddenStatesCallback(weight=0.25),
    ]


LAYERS = ("embedding", "layers.0", "layers.1")


def test_three_callbacks_together_record_every_term_and_their_weighted_sum() -> None:
    student, teacher = models()
    runner = DistilRunner(student, teacher, three_callbacks(), student_layers=LAYERS, teacher_layers=LAYERS)
    history = runner.train(data(), steps=30)
    assert list(history) == ["loss", "kl_div_loss", "mse_loss", "attention_loss"]
    for step in (0, 29):
        terms = [history[key][step] for key in ("kl_div_loss", "mse_loss", "attention_loss")]
        expected = sum(weight * term for weight, term in zip((0.5, 2.0, 0.25), terms, strict=True))
        assert history["loss"][step] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("index", [0, 1])
def test_each_callback_alone_lowers_its_term(index: int) -> None:
    student, teacher = models()
    runner = DistilRunner(student, teacher, [three_callbacks()[index]], student_layers=LAYERS, teacher_layers=LAYERS)
    losses = runner.train(data(1), steps=30)["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_attention_transfer_alone_lowers_its_term_between_images_of_two_sizes() -> None:
    torch.manual_seed(0)
    student, teacher = ConvolutionalNetwork(4, 4), ConvolutionalNetwork(6, 3)
    runner = DistilRunner(
        student,
        teacher,
        [AttentionHiddenStatesCallback(exclude_first_and_last=False, layer_mapping=[(0, 0), (1, 2)])],
        PhaseConfig(learning_rate=1e-2),
        student_layers=["blocks.0", "blocks.1"],
        teacher_layers=["blocks.0", "blocks.1", "blocks.2"],
    )
    losses = runner.train([{"images": torch.randn(8, 1, 8, 8)}], steps=30)["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_the_maps_of_a_callback_are_trained_and_the_teacher_is_not() -> None:
    student, teacher = models()
    callbacks = three_callbacks()
    before = [copy.deepcopy(module.state_dict()) for module in (callbacks[1], teacher, student)]
    DistilRunner(student, teacher, callbacks, student_layers=LAYERS, teacher_layers=LAYERS).train(data(), steps=3)
    after = [module.state_dict() for module in (callbacks[1], teacher, student)]
    changed = [any(not torch.equal(old[key], new[key]) for key in old) for old, new in zip(before, after, strict=True)]
    assert changed == [True, False, True]
    assert all(module._forward_hooks == {} for model in (student, teacher) for module in model.modules())


def test_same_seed_gives_the_same_student_to_the_bit() -> None:
    class Shuffled(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> dict:
            batch = data()[index // 8]
            return {key: value[index % 8] for key, value in batch.items()}

    students = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        student, teacher = Transformer(8, 1, dropout=0.5), Transformer(16, 1)
        loader = torch.utils.data.DataLoader(Shuffled(), batch_size=8, shuffle=True)
        DistilRunner(student, teacher, [KLDivCallback()], seed=seed).train(loader, steps=5)
        students.append(student.head.weight)
    assert torch.equal(students[0], students[1])
    assert not torch.equal(students[0], students[2])


def test_accumulated_batches_are_recorded_as_their_mean() -> None:
    student, teacher = models()
    batches = data(2)
    settings = PhaseConfig(gradient_accumulation_steps=2)
    with torch.no_grad():
        expected = [
            KLDivCallback()({"s_logits": student(b["tokens"]), "t_logits": teacher.eval()(b["tokens"])}).item()
            for b in batches
        ]
    history = DistilRunner(student, teacher, [KLDivCallback()], settings).train(batches, steps=1)
    assert history["kl_div_loss"] == [pytest.approx(sum(expected) / 2, rel=1e-5)]
    assert history["loss"] == [pytest.approx(sum(expected) / 2, rel=1e-5)]


def test_transformers_models_return_their_own_hidden_states() -> None:
    config = {"vocab_size": 20, "num_attention_heads": 2, "intermediate_size": 8, "output_hidden_states": True}
    torch.manual_seed(0)
    student = BertForSequenceClassification(BertConfig(hidden_size=8, num_hidden_layers=2, **config))
    teacher = BertForSequenceClassification(BertConfig(hidden_size=16, num_hidden_layers=4, **config))
    batches = [
        {
            "input_ids": torch.randint(0, 20, (4, 6)),
            "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]] * 4),
            "labels": torch.randint(0, 2, (4,)),
            "source": ["a name that no model takes"] * 4,
        }
    ]
    pairs = [(0, 0), (1, 2), (2, 4)]
    callbacks = [
        LabelLossCallback(),
        MSEHiddenStatesCallback(
            need_mapping=True, teacher_hidden_state_dim=16, student_hidden_state_dim=8, layer_mapping=pairs
        ),
        AttentionHiddenStatesCallback(layer_mapping=[(0, 1)]),
    ]
    history = DistilRunner(student, teacher, callbacks, PhaseConfig(learning_rate=1e-2)).train(batches, steps=20)
    assert all(history[key][-1] < history[key][0] for key in ("loss", "mse_loss"))


def test_labels_of_a_causal_language_model_are_those_of_the_next_position() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    student, teacher = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    batch = {"input_ids": torch.randint(0, 11, (2, 6)), "labels": torch.randint(0, 11, (2, 6))}
    with torch.no_grad():
        expected = student(**batch).loss.item()
    history = DistilRunner(student, teacher, [LabelLossCallback()]).train([batch], steps=1)
    assert history["label_loss"] == [pytest.approx(expected, rel=1e-5)]


def test_a_runner_without_callbacks_or_with_one_key_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a runner needs at least one callback, but has none"):
        DistilRunner(*models(), [])
    with pytest.raises(ConfigurationError, match="need keys of their own, but 'kl_div_loss' is given twice"):
        DistilRunner(*models(), [KLDivCallback(), KLDivCallback()])


def test_batches_that_are_no_mappings_or_name_no_argument_are_refused() -> None:
    runner = DistilRunner(*models(), [KLDivCallback()])
    with pytest.raises(ConfigurationError, match="mappings of argument names to tensors, but the loader gave a tuple"):
        runner.train([(torch.zeros(2, 5, 8), torch.zeros(2))], steps=1)
    with pytest.raises(ConfigurationError, match="Transformer takes tokens and the batch holds inputs"):
        runner.train([{"inputs": torch.zeros(2, 5, 8)}], steps=1)


def test_missing_hidden_states_are_an_error_with_the_remedy() -> None:
    runner = DistilRunner(*models(), [MSEHiddenStatesCallback()])
    with pytest.raises(ConfigurationError, match="name the layers of both models for the runner"):
        runner.train(data(), steps=1)


def test_loss_that_is_no_number_stops_the_training() -> None:
    student, teacher = models()
    with torch.no_grad():
        teacher.head.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the loss must stay finite, but became nan at step 0 of distillation"):
        DistilRunner(student, teacher, [KLDivCallback()]).train(data(), steps=1)


def test_training_without_a_step_and_the_key_of_the_sum_are_refused() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    with pytest.raises(ConfigurationError, match="training takes at least one step, but steps is 0"):
        DistilRunner(student, teacher, [KLDivCallback()]).train([{"input": torch.zeros(2, 4)}], 0)
    with pytest.raises(ConfigurationError, match="'loss' is the key of the sum, but a callback has it"):
        DistilRunner(student, teacher, [KLDivCallback("loss")])


def accuracy(batch) -> torch.Tensor:
    return (batch["s_logits"].argmax(-1) == batch["labels"]).float().mean()


def test_validation_is_the_mean_over_samples_and_leaves_training_as_it_is() -> None:
    student, teacher = Transformer(8, 2, dropout=0.5), models()[1]
    twin = copy.deepcopy(student)
    callbacks = [LabelLossCallback(weight=0.3), KLDivCallback(temperature=2.0, weight=0.7)]
    valid = [{key: value[: 8 - number] for key, value in batch.items()} for number, batch in enumerate(data(2))]
    history = DistilRunner(student, teacher, callbacks).train(
        data(), steps=6, valid_loader=valid, metrics={"accuracy": accuracy}, valid_steps=2
    )
    plain = DistilRunner(twin, teacher, callbacks).train(data(), steps=6)
    assert {name: history[name] for name in plain} == plain
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), twin.parameters(), strict=True))
    assert {name: len(values) for name, values in history.items() if name not in plain} == {
        "valid_loss": 3,
        "valid_label_loss": 3,
        "valid_kl_div_loss": 3,
        "valid_accuracy": 3,
    }
    student.eval()
    logits = torch.cat([student(batch["tokens"]) for batch in valid]).detach()
    labels = torch.cat([batch["labels"] for batch in valid])
    targets = torch.cat([teacher(batch["tokens"]) for batch in valid]).detach()
    assert history["valid_accuracy"][-1] == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    expected = distillation_loss(logits, targets, labels, temperature=2.0, alpha=0.7)
    assert history["valid_loss"][-1] == pytest.approx(expected.item(), rel=1e-5)


def test_validation_without_samples_or_with_the_name_of_a_term_is_refused() -> None:
    runner = DistilRunner(*models(), [LabelLossCallback()])
    with pytest.raises(ConfigurationError, match="at least one sample, but the loader yielded none"):
        runner.evaluate([])
    with pytest.raises(ConfigurationError, match="names of their own, but label_loss are those of terms"):
        runner.evaluate(data(1), {"label_loss": accuracy})
    with pytest.raises(ConfigurationError, match="steps is 1 and valid_steps is 0"):
        runner.train(data(1), steps=1, valid_steps=0)


def test_teacher_is_trained_first_for_its_epochs() -> None:
    student, teacher = models()[0], Transformer(16, 2, dropout=0.0)
    twin = copy.deepcopy(teacher)
    settings = PhaseConfig(optimizer="SGD", learning_rate=0.1, scheduler="constant", warmup_ratio=0, max_grad_norm=None)
    runner = DistilRunner(student, teacher, [KLDivCallback()], settings, num_train_teacher_epochs=2)
    history = runner.train(data(), steps=1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    expected = []
    for batch in [*data(), *data()]:
        loss = nn.functional.cross_entropy(twin(batch["tokens"]), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert history["teacher_loss"] == pytest.approx(expected, rel=1e-5)
    assert not teacher.training
    assert "teacher_loss" not in runner.train(data(), steps=1)
    for actual, reference in zip(teacher.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, reference)
    with pytest.raises(ConfigurationError, match="needs a teacher and at least one epoch, but got 2 with"):
        DistilRunner(student, None, [KLDivCallback()], num_train_teacher_epochs=2)


def test_logits_of_a_decoder_have_the_mask_of_its_labels_though_lengths_agree() -> None:
    sizes = {"vocab_size": 20, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1, "decoder_start_token_id": 0}
    models = [
        seeded(
            lambda width=width: T5ForConditionalGeneration(T5Config(d_model=width, dropout_rate=0.0, **sizes)), width
        )
        for width in (8, 16)
    ]
    tokens = torch.randint(3, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, 2:] = 0
    labels = tokens.flip(1).clone()
    labels[2, 4:] = -100
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    student, teacher = (model(**batch).logits.detach() for model in models)
    terms = teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))
    runner = DistilRunner(*models, [KLDivCallback()])
    history = runner.train([batch], steps=1)
    assert history["loss"][0] == pytest.approx(terms.sum(-1)[labels != -100].mean().item(), rel=1e-5)
