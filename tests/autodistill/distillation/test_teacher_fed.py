"""Teacher-fed blocks, all in one pass: the weights of training each alone to the bit, and every mistake by name."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from families import FAMILIES, seeded
from naive_distillation import assert_identical, make_distiller, naive_teacher_fed
from small_models import Counted, Overwriting, Repeating, Sharing, Transformer
from teacher_fed_models import SIZES, teacher_fed, tokens, transformers
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.distillation.boundaries import boundary_taps
from autodistill.distillation.teacher_fed import STAGE
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.training import NoReport, TrainingContext


def vectors():
    return [(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]


def distil_both_ways(student, distiller):
    """The student by the engine, the same student by the reference, and the losses of both."""
    twin = copy.deepcopy(student)
    records = distiller.train(student, TrainingContext(seed=7)).stages
    plan = distiller.resolve(twin)
    projection = distiller.config.flash_distillation.projection or (lambda hidden: hidden)
    batches = distiller.flash_set.batches
    curves = naive_teacher_fed(twin, distiller.teacher, plan.flash, plan.flash_criteria, batches, 7, projection)
    assert [record.stage for record in records] == [stage.name for stage in plan.flash]
    assert {record.mode for record in records} == {"teacher-fed"}
    assert [(record.first_loss, record.last_loss) for record in records] == [(c[0], c[-1]) for c in curves]
    return student, twin


def assert_changed(before, student, blocks):
    """The blocks' parameters changed, all of them, and nothing else did."""
    for name, value in student.state_dict().items():
        inside = any(name.startswith(block + ".") for block in blocks)
        assert torch.equal(value, before[name]) != inside, name


def test_all_blocks_in_one_pass_equal_each_block_alone():
    student, teacher = transformers()
    before = copy.deepcopy(student.state_dict())
    engine, alone = distil_both_ways(student, teacher_fed(teacher, tokens()))
    assert_identical(engine, alone)
    assert_changed(before, engine, ["layers.0", "layers.1", "layers.2"])
    assert not engine.training
    assert all(parameter.requires_grad for parameter in engine.parameters())


@pytest.mark.parametrize(
    "name",
    [
        *("BERT, eager", "Llama, eager", "Qwen3, sdpa", "GPT-2, sdpa", "ViT, sdpa", "T5 encoder, sdpa", "T5, sdpa"),
        "nn.TransformerEncoder",
    ],
)
def test_all_blocks_of_a_family_in_one_pass_equal_each_block_alone(name, caplog):
    family = FAMILIES[name]
    student = seeded(lambda: family.make(16, family.depths[0]), 1)
    distiller = teacher_fed(family.teacher(), family.batches(), **family.flash | {"train_steps": 5})
    with caplog.at_level(logging.INFO, logger="autodistill"):
        assert_identical(*distil_both_ways(student, distiller))
    kept = "what the student passes to its blocks depends on the blocks: it is captured once, and kept"
    assert (kept in caplog.messages) == name.startswith("T5")


@pytest.mark.parametrize("name", ["BERT, sdpa", "Llama, sdpa"])
def test_padding_mask_of_the_student_changes_its_weights(name):
    """Guards the test above: without the padding mask the weights are others."""
    family = FAMILIES[name]
    padded, whole = (seeded(lambda: family.make(16, 2), 1) for _ in range(2))
    teacher_fed(family.teacher(), family.batches()).train(padded, TrainingContext(seed=0))
    batches = [batch | {"attention_mask": torch.ones_like(batch["attention_mask"])} for batch in family.batches()]
    teacher_fed(family.teacher(), batches).train(whole, TrainingContext(seed=0))
    with pytest.raises(AssertionError):
        assert_identical(padded, whole)


def test_a_projection_maps_inputs_and_targets_to_the_students_width():
    student, teacher = transformers(width=12)
    projection = seeded(lambda: nn.Linear(16, 12), 5)
    before = copy.deepcopy((student.state_dict(), projection.state_dict()))
    engine, alone = distil_both_ways(student, teacher_fed(teacher, tokens(), projection=projection))
    assert_identical(engine, alone)
    assert_changed(before[0], engine, ["layers.0", "layers.1", "layers.2"])
    assert all(torch.equal(value, before[1][name]) for name, value in projection.state_dict().items())


def test_further_mappings_inside_a_block_are_matched_as_they_are():
    family = FAMILIES["BERT, eager"]
    student, teacher = seeded(lambda: family.make(16, 2), 1), seeded(lambda: family.make(16, 2))
    layers = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    distiller = teacher_fed(
        teacher,
        family.batches(),
        block_names=layers,
        layer_mappings_for_knowledge_transfer=[
            [(layer, layer), (f"{layer}.intermediate", f"{layer}.intermediate")] for layer in layers
        ],
        loss_weights=[[1.0, 0.5]] * 2,
        loss_types=[["NMSE", "cosine"]] * 2,
    )
    assert_identical(*distil_both_ways(student, distiller))


def test_gradients_of_one_block_change_no_other_block_if_accumulated():
    results = []
    for weight in (1.0, 1e4):
        student, teacher = transformers()
        teacher_fed(
            teacher,
            tokens(),
            gradient_accumulation_steps=2,
            max_grad_norm=1e-3,
            optimizer="SGD",
            loss_weights=[weight, 1.0, 1.0],
        ).train(student, TrainingContext(seed=3))
        results.append(student)
    for name in ("layers.1", "layers.2"):
        assert_identical(*(student.get_submodule(name) for student in results))
    with pytest.raises(AssertionError):
        assert_identical(*(student.layers[0] for student in results))


class Listening(NoReport):
    def __init__(self):
        self.heard = []

    def stage(self, name, steps):
        self.heard.append(("stage", name, steps))

    def finished(self, name, losses):
        self.heard.append(("finished", name, len(losses), losses[0]))


def test_report_receives_one_stage_whose_loss_is_the_sum_over_the_blocks():
    student, teacher = transformers()
    report = Listening()
    records = teacher_fed(teacher, tokens()).train(student, TrainingContext(seed=0, report=report)).stages
    total = sum(record.first_loss for record in records)
    assert report.heard == [("stage", STAGE, 6), ("finished", STAGE, 6, pytest.approx(total, rel=1e-6))]
    assert all(record.last_loss < record.first_loss for record in records)


def test_the_teacher_runs_once_for_each_batch_over_all_students():
    student, teacher = transformers()
    counted = Counted(teacher)
    distiller = teacher_fed(counted, tokens())
    for seed in range(2):
        distiller.train(copy.deepcopy(student), TrainingContext(seed=seed))
    assert counted.forwards == len(SIZES)


class CountedBlocks(Transformer):
    """Counts how often its blocks run."""

    def __init__(self, *args):
        super().__init__(*args)
        self.runs = 0
        for layer in self.layers:
            layer.linear1.register_forward_pre_hook(self._count)

    def _count(self, module, args):
        self.runs += 1


def test_training_takes_one_forward_of_each_block_a_step():
    runs = []
    for steps in (20, 50):
        student = seeded(lambda: CountedBlocks(16, 3), 1)
        teacher_fed(seeded(lambda: Transformer(16, 5)), tokens(), train_steps=steps).train(
            student, TrainingContext(seed=0)
        )
        runs.append(student.runs)
    assert runs[1] - runs[0] == 3 * 30


class ChangesBetweenBlocks(Transformer):
    """Changes the outputs of its blocks in place."""

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer(hidden).mul_(2)
        return self.head(hidden.mean(dim=1))


def test_student_that_works_in_place_changes_no_cached_feature():
    student, teacher = seeded(lambda: ChangesBetweenBlocks(16, 3), 1), seeded(lambda: Transformer(16, 5))
    distiller = teacher_fed(teacher, tokens())
    plan = distiller.resolve(student)
    taps = sorted(boundary_taps(plan.flash), key=str)
    before = [copy.deepcopy(distiller.cache.features(batch, taps)) for batch in distiller.flash_set.batches]
    distiller.train(student, TrainingContext(seed=0))
    for batch, features in zip(distiller.flash_set.batches, before, strict=True):
        for tap, feature in distiller.cache.features(batch, taps).items():
            assert torch.equal(feature, features[tap])


def test_a_finished_pass_is_read_from_its_checkpoint(tmp_path):
    student, teacher = transformers()
    twin, untrained = copy.deepcopy(student), copy.deepcopy(student)
    first = teacher_fed(teacher, tokens()).train(student, TrainingContext(seed=0, checkpoint_directory=tmp_path)).stages
    reports = Listening()
    distiller = teacher_fed(teacher, tokens())
    distiller.resolve(twin)
    second = distiller.train(
        twin, TrainingContext(seed=1, report=reports, checkpoint_directory=tmp_path)
    ).stages  # another seed would train otherwise
    assert_identical(student, twin)
    assert first == second
    assert [name for name, *_ in reports.heard] == ["stage", "finished"]
    with pytest.raises(AssertionError):
        assert_identical(untrained, twin)


def test_regular_distillation_follows_with_the_teachers_own_features():
    student, teacher = transformers(width=12)
    projection = seeded(lambda: nn.Linear(16, 12), 5)
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "flash_distillation": {"train_steps": 2, "inputs": "teacher", "projection": projection},
            "regular_distillation": {
                "train_steps": 2,
                "layer_mappings_for_knowledge_transfer": [("layers.2", "layers.4")],
            },
        }
    )
    distiller = Distiller(teacher, config, tokens(), torch.device("cpu"))
    criterion = distiller.resolve(student).regular_criterion
    assert [type(matcher).__name__ for matcher in criterion.feature_matchers] == ["ChannelMatcher"]
    assert distiller.train(student, TrainingContext(seed=0)).stages[-1].stage == "regular distillation"


def test_random_state_of_the_program_is_neither_read_nor_changed():
    results = []
    for seed in (0, 1):
        student, teacher = transformers()
        torch.manual_seed(seed)
        expected = torch.get_rng_state()
        teacher_fed(teacher, tokens()).train(student, TrainingContext(seed=3))
        assert torch.equal(torch.get_rng_state(), expected)
        results.append(student)
    assert_identical(*results)


def test_bfloat16_trains_every_block():
    student, teacher = transformers()
    before = copy.deepcopy(student.state_dict())
    records = teacher_fed(teacher, tokens(), mixed_precision="bf16").train(student, TrainingContext(seed=0)).stages
    assert all(record.last_loss < record.first_loss for record in records)
    assert_changed(before, student, ["layers.0", "layers.1", "layers.2"])


def problems_of(distiller, student):
    with pytest.raises(ConfigurationError) as caught:
        distiller.resolve(student)
    return caught.value.problems


def test_differing_widths_name_both_shapes_and_the_remedy():
    student, teacher = transformers(width=12)
    problems = problems_of(teacher_fed(teacher, tokens()), student)
    assert len(problems) == 6  # an input and a target for each block
    assert problems[0] == (
        "inputs='teacher' has no feature matchers, so both features must have one shape, but for "
        "student 'layers.0'[auto] -> teacher 'layers.1'[auto] the student's is (6, 5, 12), the teacher's (6, 5, 16); "
        "configure a projection to the student's width (for the blocks' inputs and outputs), or set inputs='student'."
    )
    assert "student 'layers.0'[input] -> teacher 'layers.0'[input]" in problems[1]


def test_a_projection_to_another_width_names_the_projected_shape():
    student, teacher = transformers(width=12)
    problems = problems_of(teacher_fed(teacher, tokens(), projection=lambda hidden: hidden[..., :8]), student)
    assert "the student's is (6, 5, 12), the teacher's (6, 5, 8) after the projection" in problems[0]


def test_projection_that_returns_no_tensor_or_raises_is_named():
    student, teacher = transformers(width=12)
    assert "the teacher's a NoneType after the projection" in " ".join(
        problems_of(teacher_fed(teacher, tokens(), projection=lambda hidden: None), student)
    )
    problems = problems_of(teacher_fed(teacher, tokens(), projection=nn.Linear(5, 12)), student)
    assert problems[0].startswith(
        "projection must bring the teacher's hidden states to the student's width, but for one of shape (6, 5, 16), "
        "(6, 5, 16) it raised RuntimeError: "
    )


def test_a_projection_for_the_students_own_stream_is_refused():
    with pytest.raises(ConfigurationError, match="projection belongs to inputs='teacher', but inputs is 'student'"):
        make_distiller(nn.Linear(1, 1), [], projection=nn.Linear(2, 2))


ALONE = "inputs='teacher' trains every block alone, but {} cannot be: {}; set inputs='student'."
LAYERS = ["layers.0", "layers.1"]


def mapped(*mappings):
    return [[mapping] for mapping in mappings]


@pytest.mark.parametrize(
    ("flash", "problem"),
    [
        (
            {"mappings": mapped(("layers.0", "layers.0"), ("head", "head"))},
            ALONE.format("'layers.1'", "the mapped layer 'head' lies outside the block"),
        ),
        (
            {"mappings": mapped(("layers.0", "layers.0"), ("layers.1.linear2", "layers.1.linear2"))},
            "inputs='teacher' needs the mapping of each block's output, which determines the input of the next, but "
            "'layers.1' has only student 'layers.1.linear2' -> teacher 'layers.1.linear2'; add "
            "('layers.1', 'the block of the teacher'), or set inputs='student'.",
        ),
        (
            {"add_origin_loss": [False, True]},
            ALONE.format("'layers.1'", "the student's own loss needs its whole forward"),
        ),
        (
            {"block_names": [LAYERS], "mappings": mapped(("layers.1", "layers.1"))},
            ALONE.format("'layers.0 + layers.1'", "it trains several modules together"),
        ),
        (
            {"train_steps": [5, 6]},
            "inputs='teacher' trains all blocks in one pass, so train_steps must be one number, but it is 5, 6.",
        ),
        (
            {"block_names": LAYERS[1:], "mappings": mapped(("layers.1", "layers.1"))},
            "inputs='teacher' needs all blocks of a row, in their order: layers.0, layers.1; "
            "but block_names has layers.1.",
        ),
        (
            {"block_names": LAYERS[::-1], "mappings": mapped(("layers.1", "layers.1"), ("layers.0", "layers.0"))},
            "inputs='teacher' needs all blocks of a row, in their order: layers.0, layers.1; "
            "but block_names has layers.1, layers.0.",
        ),
    ],
    ids=["outside", "no output", "own loss", "group", "steps", "gap", "order"],
)
def test_a_set_up_that_cannot_be_teacher_fed_is_refused(flash, problem):
    student, teacher = transformers(depths=(2, 2))
    mappings = flash.pop("mappings", mapped(*zip(LAYERS, LAYERS, strict=True)))
    flash = {"block_names": LAYERS, "layer_mappings_for_knowledge_transfer": mappings} | flash
    assert problems_of(teacher_fed(teacher, tokens(), **flash), student) == [problem]


@pytest.mark.parametrize(
    ("make", "blocks", "reasons"),
    [
        (Repeating, ["block"], ["it runs 3 times in one forward"]),
        (Sharing, ["blocks.0", "blocks.1"], ["its parameter 'weight' is shared with a module outside the block"] * 2),
        (Overwriting, ["blocks.0", "blocks.1"], ["it changes its input in place"] * 2),
    ],
    ids=["repeating", "sharing", "in place"],
)
def test_a_block_that_cannot_be_trained_alone_is_refused_by_name(make, blocks, reasons):
    student, teacher = seeded(lambda: make(8), 1), seeded(lambda: make(8))
    distiller = teacher_fed(
        teacher,
        vectors(),
        block_names=blocks,
        layer_mappings_for_knowledge_transfer=[[(block, block)] for block in blocks],
    )
    expected = [ALONE.format(repr(block), reason) for block, reason in zip(blocks, reasons, strict=True)]
    assert problems_of(distiller, student) == expected


def test_a_block_without_anything_to_train_is_refused():
    student, teacher = transformers(depths=(2, 2))
    student.layers[1].requires_grad_(False)
    expected = ALONE.format("'layers.1'", "none of its parameters requires gradients")
    assert problems_of(teacher_fed(teacher, tokens()), student) == [expected]


def test_a_teacher_layer_that_does_not_exist_is_named_with_the_nearest():
    student, teacher = transformers(depths=(1, 2))
    distiller = teacher_fed(
        teacher, tokens(), block_names=["layers.0"], layer_mappings_for_knowledge_transfer=[[("layers.0", "layers.7")]]
    )
    (problem,) = problems_of(distiller, student)
    assert "the teacher (Transformer) has no layer 'layers.7'; did you mean 'layers" in problem
