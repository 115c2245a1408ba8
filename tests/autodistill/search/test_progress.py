"""What a search reports: the losses of its stages in a file, and everything to the display."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from protocols import differences

from autodistill.search.progress import LossRecorder, NoProgress, Progress
from autodistill.training import NoReport, TrainingReport


class Calls:
    """A report that keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[object, ...]] = []

    def stage(self, name: str, steps: int) -> None:
        self.received.append(("stage", name, steps))

    def step(self, step: int, loss: float) -> None:
        self.received.append(("step", step, loss))

    def finished(self, name: str, losses: Sequence[float]) -> None:
        self.received.append(("finished", name, tuple(losses)))


def test_finished_stages_are_lines_of_json_and_others_are_not_written(tmp_path: Path) -> None:
    recorder = LossRecorder(tmp_path / "progress.jsonl", NoReport())
    recorder.stage("block 0", 2)
    recorder.step(2, 0.5)
    recorder.finished("block 0", (1.0, 0.5))
    recorder.finished("block 1", [2.0])
    recorder.stage("block 2", 7)
    lines = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stage": "block 0", "losses": [1.0, 0.5]},
        {"stage": "block 1", "losses": [2.0]},
    ]


def test_every_report_is_forwarded_in_order(tmp_path: Path) -> None:
    calls = Calls()
    recorder = LossRecorder(tmp_path / "progress.jsonl", calls)
    recorder.stage("block 0", 1)
    recorder.step(1, 0.25)
    recorder.finished("block 0", [0.25])
    assert calls.received == [("stage", "block 0", 1), ("step", 1, 0.25), ("finished", "block 0", (0.25,))]


def test_new_recorder_starts_the_file_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    LossRecorder(file, NoReport()).finished("interrupted", [9.0])
    LossRecorder(file, NoReport()).finished("block 0", [1.0])
    assert [json.loads(line)["stage"] for line in file.read_text().splitlines()] == ["block 0"]


def test_folder_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "progress.jsonl" / "below").mkdir(parents=True)
    LossRecorder(tmp_path / "progress.jsonl", NoReport()).finished("block 0", [1.0])
    assert json.loads((tmp_path / "progress.jsonl").read_text()) == {"stage": "block 0", "losses": [1.0]}


def test_report_without_a_display_takes_everything_that_a_search_reports() -> None:
    assert differences(NoProgress, Progress) == {}
    assert differences(LossRecorder, TrainingReport) == {}
    assert "search_finished" in differences(LossRecorder, Progress)


def test_recorder_that_receives_no_stage_changes_nothing_on_disk(tmp_path: Path) -> None:
    """What is trained once is not trained again when a search is resumed, and its losses stay."""
    file = tmp_path / "elastic" / "progress.jsonl"
    LossRecorder(file, NoReport())
    assert not file.parent.exists()
    first = LossRecorder(file, NoReport())
    first.stage("elastic distillation", 1)
    first.finished("elastic distillation", [1.0])
    LossRecorder(file, NoReport())
    assert json.loads(file.read_text()) == {"stage": "elastic distillation", "losses": [1.0]}
    LossRecorder(file, NoReport()).stage("elastic distillation", 1)
    assert not file.exists()
