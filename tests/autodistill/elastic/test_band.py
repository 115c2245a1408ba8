"""One band: what it starts from, what it draws, and its file."""

from __future__ import annotations

import copy

import pytest
import torch
from elastic_search import bert, elastic_files, make_config, make_search

from autodistill import ConfigurationError, SearchDirectoryError
from autodistill.elastic.band import Band
from autodistill.elastic.nested import NestedStudent
from autodistill.training import NoReport

SPACE = {"hidden_size": [4, 8], "num_hidden_layers": [1, 2], "intermediate_size": [6, 12]}


def elastic_of(directory, **elastic):
    config = make_config(SPACE, {"train_steps": 8, **elastic})
    return make_search(directory, config)._distiller().elastic


def test_narrower_band_starts_as_a_slice_of_the_trained_wider_one(tmp_path):
    """A learning rate of (almost) zero leaves it there."""
    elastic = elastic_of(tmp_path, learning_rate=1e-30)
    elastic.train(NoReport())
    wide, narrow = (training.student for training in elastic._trained)
    student = bert({"hidden_size": 4, "num_hidden_layers": 2, "intermediate_size": 12})
    weights = [cut for cut in NestedStudent(student, wide.largest).cuts if "LayerNorm" not in cut.name]
    assert len(weights) > 20
    for cut in weights:
        expected = cut.take(wide.largest.get_parameter(cut.source))
        torch.testing.assert_close(narrow.largest.get_parameter(cut.name), expected, rtol=0, atol=1e-7)


def test_bands_are_trained_from_the_widest_to_the_narrowest(tmp_path):
    elastic = elastic_of(tmp_path, narrow_share=1.0)
    assert elastic.bands == [Band(8, 3), Band(4, 5)]
    stages = []

    class Report(NoReport):
        def stage(self, name, steps):
            stages.append((name, steps))

    elastic.train(Report())
    assert stages == [("elastic distillation, width 8", 3), ("elastic distillation, width 4", 5)]
    assert [file.name for file in elastic_files(tmp_path)] == ["width-4.safetensors", "width-8.safetensors"]


def test_architecture_that_cannot_be_built_is_named_with_the_remedy(tmp_path):
    def build(sizes):
        if sizes["intermediate_size"] == 6 and sizes["num_hidden_layers"] == 1:
            raise RuntimeError("too small")
        return bert(sizes)

    elastic = make_search(tmp_path, make_config(SPACE, {"train_steps": 40}), build=build)._distiller().elastic
    with pytest.raises(
        ConfigurationError, match=r"'intermediate_size': 6.* it raised RuntimeError: too small; exclude"
    ):
        elastic.train(NoReport())


def test_architectures_that_a_step_draws_depend_on_the_seed_and_the_step_alone(tmp_path):
    first, second = (elastic_of(tmp_path / name) for name in ("first", "second"))
    for elastic in (first, second):
        elastic.train(NoReport())
    steps = [(step, position) for step in range(6) for position in range(2)]
    drawn = [[elastic._trained[0].architecture(*step) for step in steps] for elastic in (first, second)]
    assert drawn[0] == drawn[1]
    assert len({tuple(one.values()) for one in drawn[0]}) > 2


def test_trained_band_is_read_and_not_trained_again(tmp_path):
    first = elastic_of(tmp_path)
    assert first.steps_due(tmp_path / "elastic") == first.steps_due(None) == 8
    first.train(NoReport())
    again = elastic_of(tmp_path)
    assert again.steps_due(tmp_path / "elastic") == 0
    again.train(NoReport())
    for one, other in zip(first._trained, again._trained, strict=True):
        states = one.student.state_dict(), other.student.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_band_of_other_settings_is_refused(tmp_path):
    elastic_of(tmp_path).train(NoReport())
    with pytest.raises(SearchDirectoryError, match=r"width-8.safetensors was trained with others; take another"):
        elastic_of(tmp_path, train_steps=9).train(NoReport())


def test_gains_are_corrected_for_the_directions_that_a_narrower_student_lacks(tmp_path):
    """c = √(r D / d), with the share r of the teacher's power and the width D of its stream."""
    elastic = elastic_of(tmp_path, learning_rate=1e-30)
    elastic.train(NoReport())
    wide, narrow = elastic._trained
    subspaces = [
        elastic._task.initializer.subspace(copy.deepcopy(training.student.largest)) for training in (wide, narrow)
    ]
    correction = [(one.explained * one.teacher_width / one.width) ** 0.5 for one in subspaces]
    name = "bert.encoder.layer.1.output.LayerNorm.weight"
    gains = [one.student.largest.get_parameter(name) for one in (wide, narrow)]
    expected = gains[0][:4] * correction[1] / correction[0]
    torch.testing.assert_close(gains[1], expected, rtol=1e-5, atol=1e-6)
