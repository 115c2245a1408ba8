"""The training of the elastic student: its steps, its files, and what interrupts it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from elastic_search import (
    assert_same,
    batches,
    bert,
    content,
    elastic_files,
    elastic_steps,
    evaluate,
    make_config,
    make_search,
    make_teacher,
    outcomes,
    paused,
)
from interruptions import Killed
from torch import nn

from autodistill import SearchDirectoryError, TrialState

SMALL = {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 6}
LAST = {"layer_mappings_for_knowledge_transfer": [("classifier", "classifier")], "loss_types": "KL"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    search_dir = tmp_path_factory.mktemp("uninterrupted") / "search"
    make_search(search_dir).search_loop()
    return search_dir


# --- one step, written out --------------------------------------------------------------------------------------------


def one_step(directory, rate, samples, architecture, constraints=("intermediate_size == 6",), seed=3):
    """A slice of an elastic student that was trained for one step, and the loss of this step.

    By the constraints only one of the architectures is drawn, with 6 neurons; the largest student has 12.
    """
    space = {"hidden_size": [8], "num_hidden_layers": [1], "intermediate_size": [6, 12]}
    elastic = {
        "train_steps": 1,
        "samples_per_step": samples,
        "learning_rate": rate,
        "warmup_ratio": 0,
        "max_grad_norm": None,
    }
    config = make_config(space, elastic, regular=LAST, constraints=list(constraints), max_trials=1, seed=seed)
    search = make_search(directory, config, build=lambda sizes: bert(sizes, dropout=0.0))
    search.search_loop()
    student = bert(architecture, dropout=0.0)
    search._distiller().elastic.write(student)
    (line,) = (directory / "elastic/progress.jsonl").read_text().splitlines()
    return student.double().eval(), json.loads(line)["losses"][0]


def independent_loss(student, batch):
    """The Kullback-Leibler divergence from the teacher's predictions, the mean over the samples."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        teacher = make_teacher().eval()(**inputs).logits.double().log_softmax(-1)
    own = student(**inputs).logits.log_softmax(-1)
    return (teacher.exp() * (teacher - own)).sum(-1).mean()


@pytest.mark.parametrize("samples", [1, 2])
def test_step_equals_one_that_is_written_out_in_float64(tmp_path, samples):
    drawn = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 6}
    start, _ = one_step(tmp_path / "start", 1e-30, samples, drawn)  # nothing changes
    trained, recorded = one_step(tmp_path / "trained", 1e-2, samples, drawn)
    loss = sum(independent_loss(start, batch) for batch in batches()[:samples]) / samples
    loss.backward()
    assert recorded == pytest.approx(loss.item(), rel=1e-4)
    moved = 0
    for (name, before), after in zip(start.named_parameters(), trained.parameters(), strict=True):
        gradient = before.grad if before.grad is not None else torch.zeros_like(before)
        expected = before - 1e-2 * gradient / (gradient.abs() + 1e-8)  # the first step of AdamW
        clear = gradient.abs() > 1e-5  # in float32 the sign of the others may differ
        torch.testing.assert_close(after[clear], expected[clear], rtol=0, atol=1e-4, msg=name)
        unread = gradient == 0
        torch.testing.assert_close(after[unread], before[unread], rtol=0, atol=1e-6, msg=name)
        moved += int(clear.sum())
    assert moved > 500


def test_step_of_a_smaller_student_leaves_the_rest_of_the_largest_as_it_was(tmp_path):
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    drawn, largest = ({"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": size} for size in (6, 12))
    for seed in range(8):  # until the smaller one of the two is drawn
        before, after, chosen = (
            one_step(tmp_path / f"{seed} {rate}", rate, 1, architecture, (), seed)[0].get_parameter(name)
            for rate, architecture in ((1e-30, largest), (1e-2, largest), (1e-2, drawn))
        )
        unchanged = [row for row in range(12) if torch.equal(after[row], before[row])]
        if unchanged:
            break
    kept = [int((after == row).all(1).nonzero()) for row in chosen]  # the neurons of the smaller student
    assert sorted([*kept, *unchanged]) == list(range(12))
    assert len(kept) == 6


# --- interruptions ----------------------------------------------------------------------------------------------------


# 8 steps, with a checkpoint every 3.
@pytest.mark.parametrize(("stop_at", "by"), [(1, Killed()), (5, Killed()), (7, KeyboardInterrupt()), (8, Killed())])
def test_training_that_is_killed_continues_and_ends_with_the_same_bits(
    tmp_path, uninterrupted, monkeypatch, stop_at, by
):
    with monkeypatch.context() as patch:
        elastic_steps(patch, stop_at=stop_at, by=by)
        with pytest.raises(type(by)):
            make_search(tmp_path / "search").search_loop()
    assert not list((tmp_path / "search").glob("trials/*/trial.json"))
    steps = elastic_steps(monkeypatch)
    make_search(tmp_path / "search").search_loop()
    assert len(steps) < 8 or stop_at <= 3
    assert_same(outcomes(tmp_path / "search"), outcomes(uninterrupted))


@pytest.mark.parametrize(
    ("regular", "build", "data"),
    [
        (
            {
                "layer_mappings_for_knowledge_transfer": lambda student, teacher: [
                    ("classifier", "classifier"),
                    (f"bert.encoder.layer.{len(student.bert.encoder.layer) - 1}", "bert.encoder.layer.2"),
                ],
                "loss_types": "MSE",
            },
            bert,
            batches,
        ),
        (
            {
                "layer_mappings_for_knowledge_transfer": [
                    ("bert.encoder.layer.0.attention.self", "1", "bert.encoder.layer.0.attention.self", "1"),
                ],
                "loss_types": "MSE",
            },
            lambda sizes: bert(sizes | {"num_attention_heads": 2}),
            batches,
        ),
        ({"add_origin_loss": True, "temperature": {"start": 4, "end": 1}}, bert, batches),
    ],
    ids=["matchers of hidden states", "attention", "labels"],
)
def test_every_criterion_trains_the_elastic_student_and_continues_to_the_bit(
    tmp_path, monkeypatch, regular, build, data
):
    teacher = (lambda: make_teacher(num_attention_heads=2)) if "attention" in str(regular) else make_teacher
    arguments = {"build": build, "train_dataloader": data()}
    config = make_config(regular=regular)
    make_search(tmp_path / "whole", config, teacher_model=teacher(), **arguments).search_loop()
    with monkeypatch.context() as patch:
        elastic_steps(patch, stop_at=5, by=Killed())
        with pytest.raises(Killed):
            make_search(tmp_path / "killed", config, teacher_model=teacher(), **arguments).search_loop()
    make_search(tmp_path / "killed", config, teacher_model=teacher(), **arguments).search_loop()
    assert_same(outcomes(tmp_path / "killed"), outcomes(tmp_path / "whole"))
    (line, *_) = (tmp_path / "whole/elastic/progress.jsonl").read_text().splitlines()
    assert all(loss > 0 for loss in json.loads(line)["losses"])


def test_matchers_are_trained_and_start_those_of_regular_distillation(tmp_path):
    mapped = {"layer_mappings_for_knowledge_transfer": [("bert.encoder.layer.0", "bert.encoder.layer.0")]}
    made = [
        make_config(elastic={"learning_rate": rate}, regular=mapped | {"loss_types": "MSE"}) for rate in (1e-30, 0.1)
    ]
    found = []
    for number, config in enumerate(made):
        search = make_search(tmp_path / str(number), config)
        search.search_loop(n_trials=1)
        distiller = search._distiller()
        student = bert(SMALL)
        criterion = distiller.resolve(student).regular_criterion
        distiller.elastic.write(student, criterion)
        found.append(dict(criterion.feature_matchers[0].named_parameters()))
    before, after = found
    assert all(not torch.equal(before[name], after[name]) for name in before)


# --- its files --------------------------------------------------------------------------------------------------------


def test_damaged_file_is_reported_and_trained_again_to_the_same_bits(tmp_path, uninterrupted, caplog, monkeypatch):
    shutil.copytree(uninterrupted, tmp_path / "search")
    for file in elastic_files(tmp_path / "search"):
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 4
        file.write_bytes(damaged)
    steps = elastic_steps(monkeypatch)
    search = make_search(tmp_path / "search")
    trial = paused(search)[0]
    assert evaluate(search.load_model(trial))["closeness"] == trial.after_flash["closeness"]
    assert "is damaged" in caplog.text
    assert len(steps) == 8
    assert_same(outcomes(tmp_path / "search"), outcomes(uninterrupted))


def test_narrower_and_shallower_students_reuse_the_elastic_student(tmp_path, monkeypatch):
    space = {"hidden_size": [8], "num_hidden_layers": [2], "intermediate_size": [6, 12]}
    make_search(tmp_path, make_config(space, max_trials=2)).search_loop()
    before = content(tmp_path)
    wider = space | {"num_hidden_layers": [1, 2], "intermediate_size": [3, 6, 12]}
    steps = elastic_steps(monkeypatch)
    search = make_search(tmp_path, make_config(wider, max_trials=6))
    search.search_loop()
    assert steps == []
    assert content(tmp_path) == before
    assert len(search.search_result) == 6
    shallow = next(trial for trial in paused(search) if trial.architecture["num_hidden_layers"] == 1)
    assert all(parameter.isfinite().all() for parameter in search.load_model(shallow).parameters())


def test_larger_students_are_refused(tmp_path):
    space = {"hidden_size": [8], "num_hidden_layers": [1, 2], "intermediate_size": [6, 12]}
    make_search(tmp_path, make_config(space, max_trials=2)).search_loop()
    larger = make_search(tmp_path, make_config(space | {"intermediate_size": [6, 12, 18]}, max_trials=4))
    with pytest.raises(
        SearchDirectoryError, match=r"was trained with others; take another search_dir, or keep the larg"
    ):
        larger.search_loop()


def test_search_that_may_not_write_trains_in_memory(tmp_path):
    """As a forecast does."""
    search = make_search(tmp_path / "search")
    distiller = search._distiller(read_only=True)
    student = bert(SMALL)
    before = nn.utils.parameters_to_vector(student.parameters())
    distiller.elastic.write(student)
    assert not torch.equal(nn.utils.parameters_to_vector(student.parameters()), before)
    assert not search.search_dir.exists()


def test_slices_are_not_stored_and_paused_trials_hold_no_files(uninterrupted):
    search = make_search(uninterrupted)
    assert {trial.state for trial in search.search_result} == {TrialState.PAUSED, TrialState.COMPLETE}
    for trial in paused(search):
        assert {path.name for path in trial.directory.iterdir()} == {"trial.json"}
