"""Students made by selection: MobileBERT, whose gains of single channels commute with nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from families import half, hugging_face
from identity_cases import (
    DEPTH,
    EXACT,
    MOBILEBERT_LIKE,
    ORTHOGONAL,
    SELECTION,
    WIDTH,
    errors,
    floats,
    randomised,
    sentence_pair_batch,
    square_subspace,
)

from autodistill.batch import Batch
from autodistill.config.initialization import InitializationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.initializer import TeacherInitializer


def mobilebert(name="MobileBertForQuestionAnswering", width=WIDTH, depth=DEPTH, seed=1, **sizes):
    return randomised(hugging_face(name, **MOBILEBERT_LIKE | sizes)(width, depth), seed)


def begin(student, teacher, **settings):
    batches = [Batch(sentence_pair_batch())]
    settings = InitializationConfig(**settings)
    return TeacherInitializer(settings, teacher, batches, TeacherCache(teacher)).start(student)


INNER = {"embedding_size": 8, "intra_bottleneck_size": 12, "num_attention_heads": 2, "intermediate_size": 32}


@torch.no_grad()
def test_channels_that_are_left_out_are_replaced_by_their_mean():
    """A teacher of whose stream half the channels are the same at every position."""
    teacher = mobilebert(**INNER)
    constant = torch.tensor([0, 3, 4, 7, 8, 10, 13, 15])
    embeddings = teacher.mobilebert.embeddings
    embeddings.embedding_transformation.weight[constant] = 0
    embeddings.position_embeddings.weight[:, constant] = 0
    embeddings.token_type_embeddings.weight[:, constant] = 0
    for layer in teacher.mobilebert.encoder.layer:
        layer.output.bottleneck.dense.weight[constant] = 0
    student = mobilebert(width=WIDTH // 2, seed=2, **INNER)
    start = begin(student, teacher, centring="boundary")
    assert start.untouched == ()
    assert not set(start.subspace.directions.argmax(0).tolist()) & set(constant.tolist())
    found = errors(teacher, student, start, sentence_pair_batch())
    assert found.outputs < EXACT
    assert found.matched < EXACT


@torch.no_grad()
def test_neurons_and_heads_and_inner_channels_that_nothing_reads_are_left_out():
    teacher = mobilebert(**INNER)
    for layer in teacher.mobilebert.encoder.layer:
        layer.attention.output.dense.weight[:, :6] = 0  # the first of two heads
        for network in (layer, *layer.ffn):
            network.output.dense.weight[:, ::2] = 0
    smaller = INNER | {"num_attention_heads": 2, "intermediate_size": 16}
    student = mobilebert(seed=2, **smaller)
    start = initialize_from_teacher(student, teacher, square_subspace(SELECTION))
    assert errors(teacher, student, start, sentence_pair_batch()).outputs < EXACT


@pytest.mark.parametrize(
    "name",
    [
        "MobileBertForPreTraining",
        "MobileBertForMaskedLM",
        "MobileBertForSequenceClassification",
        "MobileBertForTokenClassification",
        "MobileBertModel",
    ],
)
@pytest.mark.parametrize("networks", [1, 2, 3])
def test_every_weight_of_a_narrow_student_is_written_and_it_runs(name, networks):
    teacher = mobilebert(name)
    student = mobilebert(name, width=WIDTH // 2, depth=2, seed=2, num_feedforward_networks=networks)
    start = begin(student, teacher)
    assert start.untouched == ()
    with torch.no_grad():
        assert all(output.isfinite().all() for output in floats(student(**sentence_pair_batch())))
    entries = {name: set(value.flatten().tolist()) for name, value in teacher.state_dict().items()}
    table = "embeddings.word_embeddings.weight"
    (student_values,) = [value for name, value in student.state_dict().items() if name.endswith(table)]
    (teacher_values,) = [values for name, values in entries.items() if name.endswith(table)]
    assert set(student_values.flatten().tolist()) <= teacher_values


@torch.no_grad()
def test_a_student_with_more_inside_computes_what_its_teacher_does():
    teacher = mobilebert(**INNER)
    student = mobilebert(seed=2, **INNER | {"intermediate_size": 40})
    before = copy.deepcopy(student)
    start = initialize_from_teacher(student, teacher, square_subspace(SELECTION))
    assert errors(teacher, student, start, sentence_pair_batch()).outputs < EXACT
    written, built = (model.mobilebert.encoder.layer[0].intermediate.dense.weight for model in (student, before))
    assert torch.equal(written[32:], built[32:])  # the neurons that the teacher lacks


def refusal(student, teacher, subspace):
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(student, teacher, subspace)
    return error.value.problems


def test_a_rotation_is_refused():
    assert refusal(mobilebert(seed=2), mobilebert(), square_subspace(ORTHOGONAL)) == [
        "students of this family are selections of channels, so P must be one, and the scale 1; use "
        "decompose(..., selects=True)."
    ]


def test_other_bottlenecks_and_another_vocabulary_are_refused_together():
    student = mobilebert(seed=2, use_bottleneck_attention=True, vocab_size=50, num_feedforward_networks=4)
    assert refusal(student, mobilebert(), square_subspace(SELECTION)) == [
        "init='teacher' needs use_bottleneck_attention=False of a MobileBERT, but the student has True.",
        "a student's blocks must not have more feed-forward networks than its teacher's, but 4 > 3.",
        "rows are copied unchanged, so both models must have as many, but "
        "'mobilebert.embeddings.word_embeddings.weight' has 50 in the student, 40 in the teacher.",
    ]


def test_the_embedding_size_may_differ():
    student = mobilebert("MobileBertForMaskedLM", width=8, seed=2, embedding_size=half)
    start = begin(student, mobilebert("MobileBertForMaskedLM"))
    assert student.cls.predictions.decoder.weight is student.mobilebert.embeddings.word_embeddings.weight
    assert start.untouched == ()
