"""At full width and depth a student is its teacher; narrow ones are nearer to it than random ones."""

from __future__ import annotations

import copy

import pytest
import torch
from families import BERT_LIKE, LLAMA_LIKE, VOCABULARY, hugging_face
from identity_cases import (
    CASES,
    DEBERTA_V2_LIKE,
    DEBERTA_V3_LIKE,
    DEPTH,
    EXACT,
    KEEPS_CONSTANT,
    ORTHOGONAL,
    PERMUTATION,
    SELECTION,
    SINGLE,
    UNTIED,
    WIDTH,
    compare,
    errors,
    identity_errors,
    randomised,
    sentence_pair_batch,
    square_subspace,
    token_batch,
)
from scipy.linalg import helmert
from torch import nn

from autodistill.batch import Batch
from autodistill.config.initialization import InitializationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.importance import Importance
from autodistill.initialization.initializer import TeacherInitializer
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import family_of
from autodistill.models.weights import Affine, has, join, part, read, write

AFTER = [name for name, case in CASES.items() if case.directions == PERMUTATION]
BEFORE = [name for name, case in CASES.items() if case.directions in (KEEPS_CONSTANT, ORTHOGONAL)]
UNCENTRED = [name for name, case in CASES.items() if case.directions == SELECTION and not name.startswith("MobileBERT")]


@pytest.mark.parametrize("name", CASES)
def test_a_student_of_full_width_and_depth_computes_what_its_teacher_does(name):
    case = CASES[name]
    errors, start = identity_errors(case)
    assert errors.outputs < case.error
    assert errors.matched < case.error
    assert start.approximations == ()
    assert start.untouched == ()


@pytest.mark.parametrize("name", CASES)
def test_blocks_may_be_taken_in_any_order(name):
    case = CASES[name]
    errors, start = identity_errors(case, layers=case.layers)
    assert start.layers == case.layers
    assert errors.outputs < case.error
    assert errors.matched < case.error


@pytest.mark.parametrize("name", [*AFTER, *BEFORE, *UNCENTRED])
def test_scale_of_the_subspace_changes_outputs_by_the_epsilon_of_the_norms(name):
    """Norms add ε to the variance, which is 1/s² of the teacher's."""
    case = CASES[name]
    errors, _ = compare(case, square_subspace(case.directions, scale=2.0), None)
    assert errors.outputs < max(case.error, 1e-3)
    assert errors.matched < max(case.error, 1e-3)


@pytest.mark.parametrize("name", AFTER)
def test_gains_after_the_residual_sum_do_not_commute_with_a_rotation(name):
    errors, _ = identity_errors(CASES[name], kind=ORTHOGONAL)
    assert errors.matched > 1e-3


def test_a_subspace_in_single_precision_is_accepted():
    case, found = CASES["BERT, classes"], square_subspace(PERMUTATION)
    single = TeacherSubspace(found.means.float(), found.directions.float(), found.scale.float(), 1.0)
    compared, _ = compare(case, single, None)
    assert compared.outputs < case.error  # a permutation loses nothing


@pytest.mark.parametrize("order", ["importance", "importance and channels"])
@pytest.mark.parametrize("name", CASES)
def test_order_of_heads_and_neurons_changes_nothing_that_is_computed(name, order):
    """Except for the order of what a pooler returns."""
    case = CASES[name]
    teacher, student = case.teacher(), randomised(case.make(WIDTH, DEPTH), 2)
    start = initialize_from_teacher(student, teacher, square_subspace(case.directions), order=order)
    found = errors(teacher, student, start, case.batch())
    assert found.matched < case.error
    if "pooled" not in name:
        assert found.outputs < case.error
    assert start.untouched == ()


def test_heads_and_neurons_come_in_the_order_of_their_importance():
    case = CASES["BERT, classes"]
    teacher, student = case.teacher(), randomised(case.make(WIDTH, DEPTH), 2)
    path = "bert.encoder.layer.0"
    neurons = torch.arange(2.0 * WIDTH).double()
    heads = torch.tensor([1.0, 4.0, 2.0, 3.0]).double().repeat_interleave(4)
    importance = Importance("gradients", {f"{path}.output.dense": neurons, f"{path}.attention.output.dense": heads})
    identity = TeacherSubspace(torch.zeros(1, WIDTH), torch.eye(WIDTH), torch.ones(WIDTH), 1.0)
    initialize_from_teacher(student, teacher, identity, importance=importance, order="importance")
    of_student, of_teacher = (model.get_submodule(path) for model in (student, teacher))
    assert torch.equal(of_student.intermediate.dense.weight, of_teacher.intermediate.dense.weight.flip(0))
    query = of_teacher.attention.self.query.weight.reshape(4, 4, WIDTH)
    assert torch.equal(of_student.attention.self.query.weight.reshape(4, 4, WIDTH), query[[1, 3, 2, 0]])


def llama(**sizes):
    return hugging_face("LlamaForCausalLM", **LLAMA_LIKE | UNTIED | sizes)


def t5(**sizes):
    settings = {"vocab_size": VOCABULARY, "d_kv": 4, "d_ff": 24, "num_heads": 4} | sizes
    return hugging_face("T5EncoderModel", "d_model", "num_layers", **settings)


def error_of_other_sizes(teacher, make, batch=token_batch):
    """How far a student at full width and depth, but of other inner sizes, is from its teacher."""
    student = randomised(make(WIDTH, DEPTH), 2)
    start = initialize_from_teacher(student, teacher, square_subspace(ORTHOGONAL))
    found = errors(teacher, student, start, batch())
    return max(found.outputs, found.matched)


@pytest.mark.parametrize(
    ("base", "wider"),
    [
        (llama(num_key_value_heads=2), llama(num_attention_heads=8, num_key_value_heads=4)),
        (llama(num_key_value_heads=2), llama(num_attention_heads=8, num_key_value_heads=2)),
        (llama(), llama(intermediate_size=50)),
        (llama(head_dim=4), llama(head_dim=8)),
        (t5(), t5(num_heads=5)),
        (t5(), t5(d_kv=7)),
        (t5(), t5(d_ff=30)),
    ],
    ids=["groups", "heads of a group", "neurons", "rotary channels", "heads", "channels", "ReLU neurons"],
)
def test_parts_that_the_teacher_lacks_change_nothing(base, wider):
    assert error_of_other_sizes(randomised(base(WIDTH, DEPTH), 1), wider) < SINGLE


@torch.no_grad()
def test_parts_that_the_teacher_does_not_use_can_be_left_out():
    """Neurons and heads that nothing reads, and heads that use two of their four channels' dimensions."""
    teacher = randomised(t5()(WIDTH, DEPTH), 1)
    for block in teacher.encoder.block:
        attention, feed_forward = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        feed_forward.wo.weight[:, ::3] = 0  # 8 of 24
        attention.o.weight[:, :4] = 0  # the first of 4 heads
        for reader in (attention.q, attention.v):
            heads = reader.weight.view(4, 4, WIDTH)
            heads[:, 2:] = heads[:, :2] * 0.5
    assert error_of_other_sizes(teacher, t5(num_heads=3, d_kv=2, d_ff=16)) < SINGLE
    assert error_of_other_sizes(teacher, t5(num_heads=2, d_kv=2, d_ff=16)) > SINGLE


@torch.no_grad()
@pytest.mark.parametrize("settings", [DEBERTA_V3_LIKE, DEBERTA_V2_LIKE], ids=["shared maps", "own maps"])
def test_narrower_heads_compute_the_same_scores_of_contents_and_positions(settings):
    """The teacher's two heads use four of their eight channels, the student's four heads have four."""
    teacher = randomised(hugging_face("DebertaV2ForMaskedLM", **settings | {"num_attention_heads": 2})(WIDTH, DEPTH), 1)
    student = randomised(hugging_face("DebertaV2ForMaskedLM", **settings)(WIDTH, DEPTH), 2)
    for block in teacher.deberta.encoder.layer:
        for name in ("query_proj", "pos_query_proj", "value_proj"):
            for parameter in getattr(block.attention.self, name, nn.Module()).parameters():
                heads = parameter.view(2, 8, -1)
                heads[:, 4:] = heads[:, :4] * 0.5
    start = initialize_from_teacher(student, teacher, square_subspace(SELECTION))
    found = errors(teacher, student, start, token_batch())
    assert max(found.outputs, found.matched) < 1e-6  # the singular values of the unused channels are not quite zero


def test_a_student_with_other_heads_begins_nearer_to_its_teacher_than_a_random_one():
    """One head of eight channels, of the teacher's four of four."""
    teacher, student, batches = narrow_pair("MPNet, classes", num_attention_heads=1)
    random = copy.deepcopy(student)
    start = begin(teacher, student, batches)
    begun, built = (distance(teacher, model, start, batches[0]) for model in (student, random))
    assert begun < 0.7 * built


def test_heads_that_share_a_table_of_position_biases_are_the_same_in_all_blocks():
    teacher, student, batches = narrow_pair("MPNet, classes")
    begin(teacher, student, batches)
    of_teacher, of_student = (model.mpnet.encoder.relative_attention_bias.weight for model in (teacher, student))
    chosen = [int((of_teacher - column[:, None]).abs().sum(0).argmin()) for column in of_student.T]
    assert torch.equal(of_student, of_teacher[:, chosen])
    assert chosen == sorted({*chosen})


@torch.no_grad()
@pytest.mark.parametrize("embedding_size", [WIDTH, 12], ids=["of the teacher's width", "of their own width"])
def test_embeddings_with_a_map_to_the_stream_are_the_teachers_projected(embedding_size):
    make = hugging_face("ElectraForMaskedLM", **BERT_LIKE, embedding_size=embedding_size)
    teacher, student = randomised(make(WIDTH, DEPTH), 1), randomised(make(WIDTH // 2, 2), 2)
    found = square_subspace(PERMUTATION, scale=2.0)
    subspace = TeacherSubspace(found.means, found.directions[:, : WIDTH // 2], found.scale[: WIDTH // 2], 0.5)
    initialize_from_teacher(student, teacher, subspace)
    streams = [
        model.electra(**sentence_pair_batch(), output_hidden_states=True).hidden_states[0]
        for model in (teacher, student)
    ]
    torch.testing.assert_close(streams[1], subspace.project(streams[0]), atol=EXACT, rtol=EXACT)
    hidden = torch.randn(5, embedding_size, dtype=torch.float64)
    torch.testing.assert_close(student.generator_lm_head(hidden), teacher.generator_lm_head(hidden))


@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_modernbert_is_exact_with_any_rotation_that_keeps_the_constant_if_its_embeddings_have_one_gain(gain):
    case = CASES["ModernBERT, spans"]
    teacher, student = case.teacher(), randomised(case.make(WIDTH, DEPTH), 2)
    nn.init.constant_(teacher.model.embeddings.norm.weight, gain)
    start = initialize_from_teacher(student, teacher, square_subspace(KEEPS_CONSTANT))
    assert start.approximations == ()
    found = errors(teacher, student, start, case.batch())
    assert max(found.outputs, found.matched) < SINGLE


@torch.no_grad()
def test_narrower_rotary_heads_keep_the_pairs_of_the_nearest_frequencies():
    teacher = randomised(llama(head_dim=8)(WIDTH, DEPTH), 1)
    for layer in teacher.model.layers:
        for reader in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            reader.weight.view(-1, 2, 4, WIDTH)[:, :, 1::2] = 0  # four pairs of channels, of which two are used
        layer.self_attn.v_proj.weight.view(-1, 8, WIDTH)[:, 4:] = 0
    assert error_of_other_sizes(teacher, llama(head_dim=4)) < SINGLE


@torch.no_grad()
def concentrated(teacher, spectrum):
    """The teacher with what is written to its stream in a few directions, by the second half of heads and neurons."""
    path, _, family = family_of(teacher)
    mean_free = torch.from_numpy(helmert(WIDTH).T.copy())[:, : len(spectrum)]
    down = mean_free * spectrum @ mean_free.T
    for scale in (f"{family.blocks}.{i}.{unit.scale}" for i in range(DEPTH) for unit in family.parts if unit.scale):
        nn.init.ones_(teacher.get_parameter(join(path, scale)))  # otherwise it fills all directions
    writers = [
        f"{family.blocks}.{index}.{part(block_part.output).path}"
        for index in range(DEPTH)
        for block_part in family.parts
    ]
    leads = family.embedding_map
    embeddings = family.embeddings if leads is None or not has(teacher, join(path, leads)) else (leads,)
    for spec in (*embeddings, *writers):
        name = join(path, spec)
        if has(teacher, name):
            given = read(teacher, name)
            if spec in writers:
                given.weight[:, : given.weight.shape[1] // 2] = 0
            write(teacher, name, Affine(down @ given.weight, None if given.bias is None else down @ given.bias))
    if family.norm_position == "after":  # a norm's own gain and bias would fill all directions again
        for name, parameter in teacher.named_parameters():
            if "norm" in name.lower() and parameter.shape == (WIDTH,):
                parameter.copy_(torch.ones_like(parameter) if name.endswith("weight") else down @ parameter)
    return teacher


@pytest.mark.parametrize("name", [name for name in BEFORE if "pooled" not in name])
def test_a_narrow_student_is_exact_if_the_teachers_stream_is_in_its_subspace(name):
    case = CASES[name]
    teacher = concentrated(case.teacher(), torch.ones(WIDTH // 2 - 1, dtype=torch.float64))
    if name.startswith(
        ("GPT-2", "OPT", "GPT-NeoX, words")
    ):  # their heads have no bias that could absorb all of the last norm's
        _, base, family = family_of(teacher)
        nn.init.zeros_(base.get_submodule(family.final_norm).bias)
    student = randomised(case.make(WIDTH // 2, DEPTH), 2)
    start = begin(teacher, student, [Batch(case.batch())])
    assert start.subspace.explained == pytest.approx(1)
    found = errors(teacher, student, start, case.batch())
    assert found.outputs < 1e-3  # norms add ε to the variance, which is not the teacher's
    assert found.matched < 1e-3
    assert start.approximations == ()


def narrow_pair(name, **settings):
    """A teacher, a student of half its width and fewer blocks, and the flash set; `settings` are the student's."""
    case = CASES[name]
    spectrum = torch.logspace(0, -3, WIDTH - 1, dtype=torch.float64)
    student = case.make(WIDTH // 2, 2)
    if settings:
        student = type(student)(type(student.config)(**student.config.to_diff_dict() | settings))
    teacher, student = concentrated(case.teacher(), spectrum), randomised(student, 2)
    return teacher, student, [Batch(case.batch())]


def begin(teacher, student, batches, **settings):
    return TeacherInitializer(InitializationConfig(**settings), teacher, batches, TeacherCache(teacher)).start(student)


@torch.no_grad()
def distance(teacher, student, start, batch):
    """From the teacher's last hidden states to the student's, matched."""
    of_teacher, of_student = (family_of(model)[1](**batch.content)[0] for model in (teacher, student))
    return float((of_student @ start.matcher.weight.T + start.matcher.bias - of_teacher).square().mean())


@pytest.mark.parametrize("name", [*AFTER, *UNCENTRED])
def test_a_narrow_student_begins_nearer_to_its_teacher_than_a_random_one(name):
    teacher, student, batches = narrow_pair(name)
    random = copy.deepcopy(student)
    start = begin(teacher, student, batches)
    assert start.untouched == ()
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    begun, built = (distance(teacher, model, start, batches[0]) for model in (student, random))
    assert begun < 0.7 * built


def test_the_same_student_begins_the_same_bit_for_bit():
    first, second = ([], [])
    for found in (first, second):
        teacher, student, batches = narrow_pair("BERT, classes")
        begin(teacher, student, batches, least_squares="all")
        found.extend(student.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_embeddings_alone_leave_the_rest_as_built():
    teacher, student, batches = narrow_pair("BERT, spans")
    before = copy.deepcopy(student.state_dict())
    start = begin(teacher, student, batches, weights="embeddings")
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".embeddings." in name}
    assert {*start.untouched} == {*dict(student.named_parameters())} - changed
