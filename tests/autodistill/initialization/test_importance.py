"""Importance, against activations and gradients computed by hand."""

from __future__ import annotations

import pytest
import torch
from families import BERT_LIKE, hugging_face
from identity_cases import DEPTH, EXACT, GPT2_LIKE, PERMUTATION, WIDTH, errors, randomised, square_subspace, token_batch

from autodistill.batch import Batch
from autodistill.config.initialization import InitializationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.importance import Importance, measure_importance
from autodistill.initialization.initializer import TeacherInitializer

bert = hugging_face("BertForSequenceClassification", **BERT_LIKE)
WRITERS = [
    f"bert.encoder.layer.{i}.{name}" for i in range(DEPTH) for name in ("attention.output.dense", "output.dense")
]


def batches(**more):
    whole = token_batch() | more
    return [Batch({name: value[rows] for name, value in whole.items()}) for rows in (slice(0, 1), slice(1, 4))]


def test_activations_are_the_root_mean_square_of_a_writers_input_without_padding():
    teacher = randomised(bert(WIDTH, DEPTH), 1)
    seen = {}
    handles = [
        teacher.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: args[0]})
        )
        for name in WRITERS
    ]
    with torch.no_grad():
        teacher(**token_batch())
    for handle in handles:
        handle.remove()
    found = measure_importance(teacher, batches())
    assert list(found.inputs) == WRITERS
    for name in WRITERS:
        rows = seen[name][token_batch()["attention_mask"].bool()]
        torch.testing.assert_close(found.inputs[name], rows.square().mean(0).sqrt())


@pytest.mark.parametrize("labelled", [True, False])
def test_gradients_are_those_of_the_models_own_loss_or_of_half_its_squared_output(labelled):
    teacher = randomised(bert(WIDTH, DEPTH), 1)
    given = token_batch() | ({"labels": torch.tensor([0, 1, 1, 0])} if labelled else {})
    seen = {}

    def keep(name):
        def hook(module, args, output):
            args[0].retain_grad()
            seen[name] = args[0]

        return hook

    handles = [teacher.get_submodule(name).register_forward_hook(keep(name)) for name in WRITERS]
    output = teacher(**given)
    (output.loss if labelled else output.logits.square().sum() / 2).backward()
    for handle in handles:
        handle.remove()
    teacher.zero_grad()
    found = measure_importance(teacher, [Batch(given)], "gradients")
    mask = given["attention_mask"].bool()
    for name in WRITERS:
        expected = (seen[name] * seen[name].grad).abs()[mask].mean(0)
        torch.testing.assert_close(found.inputs[name], expected)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_activations_are_weighed_with_the_writers_weights_and_gradients_are_not():
    seen, written = {"writer": torch.tensor([1.0, 2.0])}, torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    assert Importance("activations", seen).of("writer", written).tolist() == [5.0, 2.0]
    assert Importance("gradients", seen).of("writer", written).tolist() == [1.0, 2.0]
    assert Importance("gradients", seen).of("another", written) is None


@torch.no_grad()
@pytest.mark.parametrize("kind", ["activations", "gradients"])
def test_neurons_and_heads_that_are_silent_are_left_out_despite_large_weights(kind):
    teacher = randomised(bert(WIDTH, DEPTH), 1)
    for layer in teacher.bert.encoder.layer:
        layer.intermediate.dense.weight[:16] = 1e-6 * layer.intermediate.dense.weight[:16]
        layer.intermediate.dense.bias[:16] = -100  # GELU returns zero
        layer.output.dense.weight[:, :16] *= 1e9
        layer.attention.self.value.weight[:8] = 0
        layer.attention.self.value.bias[:8] = 0
        layer.attention.output.dense.weight[:, :8] *= 1e9
    small = hugging_face("BertForSequenceClassification", **BERT_LIKE | {"intermediate_size": 16})
    student = randomised(small(WIDTH, DEPTH), 2)
    importance = measure_importance(teacher, batches(), kind)
    start = initialize_from_teacher(student, teacher, square_subspace(PERMUTATION), importance=importance)
    assert errors(teacher, student, start, token_batch()).outputs < EXACT
    start = initialize_from_teacher(student, teacher, square_subspace(PERMUTATION))
    assert errors(teacher, student, start, token_batch()).outputs > 1e-3


@pytest.mark.parametrize("kind", ["auto", "gradients"])
def test_a_search_measures_it_once(kind):
    teacher = bert(WIDTH, DEPTH)
    forwards = []
    teacher.register_forward_hook(lambda *_: forwards.append(1))
    settings = InitializationConfig(importance=kind, least_squares="none")
    initializer = TeacherInitializer(settings, teacher, batches(), TeacherCache(teacher))
    initializer.start(bert(8, 2))
    first = len(forwards)
    initializer.start(bert(8, 2))
    assert 0 < first == len(forwards)


@pytest.mark.parametrize(
    ("make", "importance", "least_squares"),
    [
        (bert, "activations", "norms"),
        (hugging_face("GPT2ForSequenceClassification", **GPT2_LIKE), "activations", "all"),
        (hugging_face("GPT2LMHeadModel", **GPT2_LIKE), "activations", "none"),
    ],
    ids=["norms after the sum", "norms before the readers", "next tokens"],
)
def test_defaults_depend_on_the_family(make, importance, least_squares):
    teacher = randomised(make(WIDTH, DEPTH), 1)

    def started(**settings):
        student = randomised(make(8, 2), 2)
        TeacherInitializer(InitializationConfig(**settings), teacher, batches(), TeacherCache(teacher)).start(student)
        return student.state_dict()

    states = {
        (one, other): started(importance=one, least_squares=other)
        for one in ("weights", "activations")
        for other in ("none", "norms", "all")
    }
    found, expected = started(), states[importance, least_squares]
    assert all(torch.equal(found[name], expected[name]) for name in found)
    differing = [
        key for key, state in states.items() if any(not torch.equal(state[name], found[name]) for name in found)
    ]
    assert len(differing) >= 3
    assert all(key in differing for key in states if key[0] != importance)


@pytest.mark.parametrize("kind", ["activations", "gradients"])
def test_the_teacher_is_left_as_it_was(kind):
    model = bert(WIDTH, DEPTH).double().train()
    model.bert.embeddings.eval()
    model.bert.pooler.requires_grad_(False)
    before = [(module.training, [p.requires_grad for p in module.parameters()]) for module in model.modules()]
    measure_importance(model, batches(), kind)
    assert before == [(module.training, [p.requires_grad for p in module.parameters()]) for module in model.modules()]


@pytest.mark.parametrize(
    ("given", "kind", "sentence"),
    [
        ([], "activations", "importance is measured on a few batches, but there is none; pass a list of batches."),
        (batches(), "loss", "kind must be 'activations' or 'gradients', but is 'loss'."),
    ],
)
def test_importance_that_cannot_be_measured_is_refused(given, kind, sentence):
    with pytest.raises(ConfigurationError) as error:
        measure_importance(bert(WIDTH, DEPTH), given, kind)
    assert str(error.value) == sentence


def test_plain_batches_of_a_loader_are_accepted():
    teacher = randomised(bert(WIDTH, DEPTH), 1)
    wrapped, plain = (measure_importance(teacher, [one]).inputs for one in (Batch(token_batch()), token_batch()))
    assert {*plain} == {*WRITERS}
    assert all(torch.equal(wrapped[name], plain[name]) for name in WRITERS)
