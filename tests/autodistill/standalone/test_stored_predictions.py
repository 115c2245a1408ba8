"""Stored predictions: the file holds the teacher's outputs, read back sample by sample."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autodistill.config.phase import PhaseConfig
from autodistill.errors import ConfigurationError
from autodistill.losses.top_k import TopKLogits, top_k_logits
from autodistill.standalone.callbacks import KLDivCallback
from autodistill.standalone.runner import DistilRunner
from autodistill.standalone.stored_predictions import DistillationDataset, save_predictions


def teacher(classes: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, classes))


INPUTS, LABELS = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 6
PAIRS = TensorDataset(INPUTS, LABELS)


class Named:
    """The samples as mappings, named as the first module's argument is."""

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, index: int) -> dict:
        return {"input": INPUTS[index], "labels": LABELS[index]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.safetensors"


def test_every_sample_comes_with_its_own_prediction(path) -> None:
    model = teacher().train()
    save_predictions(model, DataLoader(PAIRS, batch_size=4), path)
    assert model.training
    dataset = DistillationDataset(PAIRS, path)
    expected = model.eval()(INPUTS).detach()
    assert len(dataset) == 10
    for index in (0, 3, 9, -1):
        inputs, label, logits = dataset[index]
        torch.testing.assert_close(inputs, INPUTS[index])
        assert label == LABELS[index]
        torch.testing.assert_close(logits, expected[index])
    assert sum(1 for _ in dataset) == 10  # ends where the samples end
    assert not path.with_name(path.name + ".tmp").exists()


def test_a_loader_shuffles_samples_with_their_predictions(path) -> None:
    model = teacher().eval()
    save_predictions(model, DataLoader(PAIRS, batch_size=4), path)
    for inputs, _, logits in DataLoader(DistillationDataset(PAIRS, path), batch_size=5, shuffle=True):
        torch.testing.assert_close(logits, model(inputs).detach())


def test_a_worker_process_receives_the_data_set_without_the_open_file(path) -> None:
    save_predictions(teacher(), DataLoader(PAIRS, batch_size=4), path)
    dataset = DistillationDataset(PAIRS, path)
    first = dataset[1]
    sent = copy.deepcopy(dataset)  # copies what would be sent
    torch.testing.assert_close(sent[1], first)


def test_samples_of_other_forms_receive_the_prediction_too(path) -> None:
    model = teacher().eval()
    save_predictions(model, [(INPUTS, LABELS)], path)
    expected = model(INPUTS[2]).detach()
    torch.testing.assert_close(DistillationDataset(Named(), path)[2]["t_logits"], expected)
    sample, logits = DistillationDataset(INPUTS, path)[2]
    torch.testing.assert_close((sample, logits), (INPUTS[2], expected))


def test_the_largest_logits_are_read_as_they_were_computed(path) -> None:
    model = teacher().eval()
    save_predictions(model, DataLoader(PAIRS, batch_size=4), path, top_k=2, temperature=3.0)
    batch = next(iter(DataLoader(DistillationDataset(Named(), path), batch_size=10)))
    read, expected = batch["t_logits"], top_k_logits(model(INPUTS).detach(), 2, 3.0)
    assert isinstance(read, TopKLogits)
    for actual, reference in zip(read, expected, strict=True):
        torch.testing.assert_close(actual, reference)
    assert path.stat().st_size < 10 * 6 * 4 + 1000


@pytest.mark.parametrize("top_k", [None, 5])
def test_offline_distillation_trains_the_student_of_online_distillation(path, top_k) -> None:
    """With all logits, or with all classes but one, which is the same divergence."""
    model = teacher()
    student = nn.Linear(4, 6)
    twin = copy.deepcopy(student)
    settings = PhaseConfig(learning_rate=1e-2)
    online = DistilRunner(student, model, [KLDivCallback(temperature=2.0)], settings)
    losses = online.train(DataLoader(Named(), batch_size=5), steps=8)["loss"]
    save_predictions(model, DataLoader(PAIRS, batch_size=4), path, top_k=top_k, temperature=2.0)
    offline = DistilRunner(twin, None, [KLDivCallback(temperature=2.0)], settings)
    torch.testing.assert_close(
        offline.train(DataLoader(DistillationDataset(Named(), path), batch_size=5), steps=8)["loss"],
        losses,
        rtol=1e-4,
        atol=1e-6,
    )
    torch.testing.assert_close(twin.weight, student.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stored", [7, 12])
def test_file_of_fewer_or_more_predictions_than_samples_is_refused(path, stored: int) -> None:
    save_file({"logits": torch.zeros(stored, 6)}, path)
    with pytest.raises(ConfigurationError) as caught:
        DistillationDataset(PAIRS, path)
    assert str(caught.value) == (
        f"stored predictions must be one for each sample, but {path} holds {stored} for 10 samples; store them again "
        "for this data set."
    )


def test_file_of_something_else_is_refused_naming_what_it_holds(path) -> None:
    save_file({"weight": torch.zeros(10, 6)}, path)
    with pytest.raises(ConfigurationError, match="holds weight; write it with save_predictions"):
        DistillationDataset(PAIRS, path)


def test_predictions_of_several_lengths_or_none_are_refused(path) -> None:
    model = nn.Identity()
    with pytest.raises(ConfigurationError, match=r"batches gave \(3, 6\) and \(4, 6\); pad all samples to one length"):
        save_predictions(model, [torch.zeros(2, 3, 6), torch.zeros(2, 4, 6)], path)
    with pytest.raises(ConfigurationError, match="for at least one batch, but the loader gave none"):
        save_predictions(model, [], path)
    with pytest.raises(ConfigurationError, match="top_k must lie between 1 and the number of classes less 1"):
        save_predictions(model, [torch.zeros(2, 6)], path, top_k=6)
    with pytest.raises(ConfigurationError, match="a temperature must be positive and finite"):
        save_predictions(model, [torch.zeros(2, 6)], path, top_k=2, temperature=0.0)
    assert not path.exists()


def test_missing_folder_or_shuffling_loader_is_refused_before_the_teacher_runs(tmp_path) -> None:
    teacher, data = nn.Linear(4, 3), TensorDataset(torch.randn(6, 4), torch.zeros(6))
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher ran"))
    with pytest.raises(ConfigurationError, match=r"in a folder that exists, but .*nowhere does not"):
        save_predictions(teacher, DataLoader(data), tmp_path / "nowhere" / "file")
    with pytest.raises(ConfigurationError, match="in the data set's own order, but the loader shuffles"):
        save_predictions(teacher, DataLoader(data, shuffle=True), tmp_path / "file")


@pytest.mark.parametrize("part", ["empty", "truncated", "junk"])
def test_incomplete_file_is_refused(tmp_path, part: str) -> None:
    path, data = tmp_path / "file", [torch.randn(4) for _ in range(3)]
    save_file({"logits": torch.zeros(3, 5)}, path)
    path.write_bytes({"empty": b"", "truncated": path.read_bytes()[:-8], "junk": b"no safetensors " * 9}[part])
    with pytest.raises(ConfigurationError, match=r"are a whole safetensors file, but .*file is none"):
        DistillationDataset(data, path)
