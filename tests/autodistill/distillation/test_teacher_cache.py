"""The teacher runs once for each batch, and again whenever anything that its features depend on has changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.batch import Batch
from autodistill.distillation.sample_outputs import SampleOutputs
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError
from autodistill.models.attention import eager_attention
from autodistill.models.masks import Positions
from autodistill.models.taps import AUTO, Tap
from autodistill.tensors import identical


class Teacher(nn.Module):
    """A trunk, a middle that returns a tuple, a head; buffers of both kinds; counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.trunk, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)
        self.dropout = nn.Dropout(0.5)
        self.middle = Pairing()
        self.register_buffer("kept", torch.ones(6))
        self.register_buffer("unkept", torch.ones(6), persistent=False)
        self.calls = self.finished = 0

    def forward(self, x):
        self.calls += 1
        hidden, _ = self.middle(self.dropout(self.trunk(x)) * self.kept + self.unkept)
        result = self.head(hidden)
        self.finished += 1
        return result


class Pairing(nn.Module):
    def forward(self, x):
        return torch.tanh(x), torch.sigmoid(x)


TAPS = [Tap("trunk"), Tap("middle", "1"), Tap("")]


def batch(number: int = 0) -> Batch:
    return Batch((torch.randn(5, 4, generator=torch.Generator().manual_seed(number)), torch.zeros(5)))


def expected(teacher: Teacher, given: Batch):
    trunk = teacher.trunk(given.inputs)
    hidden = trunk * teacher.kept + teacher.unkept
    return [trunk, torch.sigmoid(hidden), teacher.head(torch.tanh(hidden))]


@pytest.mark.parametrize("on_disk", [False, True])
def test_features_are_the_teachers_and_the_second_call_runs_nothing(tmp_path: Path, on_disk: bool) -> None:
    teacher = Teacher().train()
    cache = TeacherCache(teacher, tmp_path if on_disk else None)
    features = cache.features(batch(), TAPS)
    for value, reference in zip(features.values(), expected(teacher, batch()), strict=True):
        torch.testing.assert_close(value, reference)
        assert not value.requires_grad
    assert not teacher.training
    assert identical(cache.features(batch(), TAPS), features)
    assert identical(cache.features(batch(), TAPS[1:2]), {TAPS[1]: features[TAPS[1]]})
    assert teacher.calls == cache.run.forwards == 1


def test_new_instance_on_the_same_directory_runs_nothing(tmp_path: Path) -> None:
    features = [TeacherCache(Teacher(), tmp_path).features(batch(number), TAPS) for number in range(3)]
    teacher = Teacher()
    cache = TeacherCache(teacher, tmp_path)
    assert identical([cache.features(batch(number), TAPS) for number in range(3)], features)
    assert teacher.calls == cache.run.forwards == 0


def test_features_for_later_stages_are_computed_in_the_same_forward(tmp_path: Path) -> None:
    cache = TeacherCache(Teacher())
    assert list(cache.features(batch(), TAPS[:1], also=TAPS)) == TAPS[:1]
    cache.features(batch(), TAPS)
    assert cache.run.forwards == 1
    cache = TeacherCache(Teacher(), tmp_path)
    cache.expect([batch()], TAPS[2:])
    cache.features(batch(), TAPS[:1])
    later = TeacherCache(Teacher(), tmp_path)
    later.features(batch(), [TAPS[0], TAPS[2]])
    assert later.run.forwards == 0


def test_forward_after_the_first_ends_at_the_last_mapped_layer() -> None:
    teacher = Teacher()
    cache = TeacherCache(teacher)
    features = [cache.features(batch(number), TAPS[:2]) for number in range(3)]
    assert (teacher.calls, teacher.finished) == (3, 1)
    for number, found in enumerate(features):
        torch.testing.assert_close(list(found.values()), expected(teacher, batch(number))[:2])


def test_layer_that_runs_twice_is_never_cut_short() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(4, 4)

        def forward(self, x):
            return self.block(self.block(x))

    teacher = Twice()
    cache = TeacherCache(teacher)
    for number in range(2):
        feature = cache.features(batch(number), [Tap("block")])[Tap("block")]
        torch.testing.assert_close(feature, teacher(batch(number).inputs).detach())


def changed_weight(teacher: Teacher) -> None:
    teacher.head.bias.data[0] += 1e-6


def changed_buffer(teacher: Teacher) -> None:
    teacher.kept[0] = 2


def changed_unkept_buffer(teacher: Teacher) -> None:
    teacher.unkept[0] = 2


def changed_module(teacher: Teacher) -> None:
    teacher.dropout = nn.Identity()


@pytest.mark.parametrize("change", [changed_weight, changed_buffer, changed_unkept_buffer, changed_module])
def test_changed_teacher_misses(tmp_path: Path, change) -> None:
    tap, given = [Tap("trunk")], batch()
    TeacherCache(Teacher(), tmp_path).features(given, tap)
    teacher = Teacher()
    change(teacher)
    cache = TeacherCache(teacher, tmp_path)
    cache.features(given, tap)
    assert cache.run.forwards == 1


@pytest.mark.parametrize(
    ("given", "taps", "options"),
    [
        (batch(1), [Tap("trunk")], {}),
        (Batch((batch().inputs.clone().add_(1e-6), torch.zeros(5))), [Tap("trunk")], {}),
        (batch(), [Tap("head")], {}),
        (batch(), [Tap("middle", "0")], {}),
        (batch(), [Tap("trunk")], {"mixed_precision": "bf16"}),
    ],
    ids=["batch", "last bits of a batch", "layer", "process", "precision"],
)
def test_other_batch_layer_process_or_precision_misses(tmp_path: Path, given: Batch, taps, options) -> None:
    TeacherCache(Teacher(), tmp_path).features(batch(), [Tap("trunk"), Tap("middle", "1")])
    cache = TeacherCache(Teacher(), tmp_path, **options)
    cache.features(given, taps)
    assert cache.run.forwards == 1


def test_mixed_precision_is_what_the_teacher_runs_in() -> None:
    features = TeacherCache(Teacher(), mixed_precision="bf16").features(batch(), TAPS[:1])
    assert features[TAPS[0]].dtype == torch.bfloat16


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None], ids=["empty", "garbage", "cut short"])
def test_damaged_file_is_computed_again_with_a_warning(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    features = TeacherCache(Teacher(), tmp_path).features(batch(), TAPS)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-3] if damage is None else damage)
    cache = TeacherCache(Teacher(), tmp_path)
    with caplog.at_level(logging.WARNING):
        assert identical(cache.features(batch(), TAPS), features)
    assert caplog.text.count("is damaged; it is recomputed") == 1
    assert str(files[0]) in caplog.text
    assert cache.run.forwards == 1
    assert TeacherCache(Teacher(), tmp_path).features(batch(), TAPS)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("files", [0, 2, 5])
def test_directory_never_grows_beyond_its_budget(tmp_path: Path, files: int) -> None:
    TeacherCache(Teacher(), tmp_path / "one").features(batch(), TAPS[:1])
    (one,) = (tmp_path / "one").rglob("*.safetensors")
    budget = int((files + 0.9) * one.stat().st_size)  # room for one more tensor, not for its file
    directory = tmp_path / "budget"
    for _ in range(2):  # the second instance counts what the first one left
        cache = TeacherCache(Teacher(), directory, disk_gb=budget / 2**30, memory_gb=0)
        for number in range(8):
            feature = cache.features(batch(number), TAPS[:1])[TAPS[0]]
            torch.testing.assert_close(feature, Teacher().trunk(batch(number).inputs).detach())
        kept = list(directory.rglob("*.safetensors"))
        assert sum(path.stat().st_size for path in kept) <= budget
        assert len(kept) == files
    assert cache.run.forwards == 8 - files


def test_memory_budget_is_kept_and_the_rest_is_computed_again() -> None:
    size = 5 * 6 * 4
    cache = TeacherCache(Teacher(), memory_gb=2 * size / 2**30)
    for _ in range(2):
        for number in range(3):
            cache.features(batch(number), TAPS[:1])
    assert cache.run.forwards == 3 + 1


def test_feature_of_a_callable_process_is_kept_in_memory_alone(tmp_path: Path) -> None:
    tap = Tap("middle", lambda output: output[0] + 1)
    cache = TeacherCache(Teacher(), tmp_path)
    features = [cache.features(batch(), [tap])[tap] for _ in range(2)]
    torch.testing.assert_close(
        features[0], TeacherCache(Teacher()).features(batch(), [Tap("middle", "0")]).popitem()[1] + 1
    )
    assert torch.equal(features[0], features[1])
    assert cache.run.forwards == 1
    assert not list(tmp_path.rglob("*.safetensors"))
    again = TeacherCache(Teacher(), tmp_path)
    again.features(batch(), [tap])
    assert again.run.forwards == 1


def test_teacher_receives_no_gradients_and_keeps_its_own_flags() -> None:
    teacher = Teacher()
    TeacherCache(teacher).features(batch(), TAPS)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_features_of_another_attention_implementation_are_computed_again(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    teacher = BertModel(BertConfig(**sizes, vocab_size=9, attn_implementation="sdpa"))
    tokens, taps = Batch({"input_ids": torch.tensor([[1, 2, 3]])}), [Tap("encoder.layer.0")]
    attention = Tap("encoder.layer.0.attention.self", "1")
    for directory, forwards in ((None, 2), (tmp_path, 2), (tmp_path, 0)):
        cache = TeacherCache(teacher, directory)
        for _ in range(2):
            cache.features(tokens, taps)
            with eager_attention(teacher):
                cache.features(tokens, taps)
        assert cache.run.forwards == forwards
        assert cache.needs_eager_attention(tokens, [attention])


class Noisy(nn.Linear):
    """Adds noise to its output in eval mode, or draws it without use."""

    def __init__(self, scale: float) -> None:
        super().__init__(4, 3)
        self.scale = scale
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + self.scale * torch.randn(3)


def test_a_teacher_whose_features_are_random_is_refused() -> None:
    batch = Batch((torch.ones(2, 4), None))
    with pytest.raises(ConfigurationError, match="differs between two forward passes in eval mode"):
        TeacherCache(Noisy(0.5).eval()).features(batch, [Tap("")])
    teacher = Noisy(0.0).eval()
    found = TeacherCache(teacher).features(batch, [Tap("")])
    assert torch.equal(found[Tap("")], nn.functional.linear(torch.ones(2, 4), teacher.weight, teacher.bias))


def test_a_teacher_that_draws_random_numbers_is_compared_with_itself_once() -> None:
    teacher = Noisy(0.0).eval()
    cache = TeacherCache(teacher)
    for number in range(3):
        cache.features(Batch((torch.full((2, 4), float(number)), None)), [Tap("")])
    assert teacher.calls == 4


def test_the_axes_of_features_are_found_once_for_all_students() -> None:
    calls = []
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    teacher = BertModel(BertConfig(vocab_size=20, **sizes))
    teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    cache = TeacherCache(teacher)
    batch = Batch({"input_ids": torch.ones(5, 5, dtype=torch.long), "attention_mask": torch.ones(5, 5)})
    tap = Tap("encoder.layer.0", AUTO)
    for _ in range(2):
        found = cache.positions(batch, cache.features(batch, [tap]))
        assert found[tap] == Positions("inputs", samples=0, axis=1)
    assert len(calls) == 2  # for the features, and for the axes


# --- filling it beforehand, and looking at it ------------------------------------------------------------------------


HEAD, TRUNK = Tap(""), Tap("trunk")


def cache_by_sample(folder: Path | None = None) -> TeacherCache:
    outputs = SampleOutputs(None if folder is None else folder / "samples", memory_bytes=2**20)
    cache = TeacherCache(Teacher(), folder, outputs=outputs)
    cache.keep_by_sample(batch(), cache.compute(batch(), [HEAD]), {HEAD: None})
    cache.run.forwards = cache.run.samples = 0
    return cache


@pytest.mark.parametrize("on_disk", [False, True])
def test_filled_cache_holds_features_and_outputs_after_one_forward(tmp_path: Path, on_disk: bool) -> None:
    cache = cache_by_sample(tmp_path if on_disk else None)
    assert not cache.holds(batch(), [TRUNK])
    cache.fill(batch(), [TRUNK], [HEAD], range(5))
    assert cache.holds(batch(), [TRUNK, HEAD])
    assert cache.rows_stored(batch(), [HEAD]) == 5
    cache.fill(batch(), [TRUNK], [HEAD], range(5))
    features = cache.features(batch(), [TRUNK]) | cache.outputs(batch(), [HEAD])
    assert cache.run.forwards == 1
    trunk, _, head = expected(cache.teacher, batch())
    torch.testing.assert_close(features, {TRUNK: trunk.detach(), HEAD: head.detach()})


def test_outputs_are_kept_only_for_samples_that_no_earlier_batch_has() -> None:
    cache = cache_by_sample()
    cache.fill(batch(), [TRUNK], [HEAD], [1, 3])
    assert (cache.rows_stored(batch(), [HEAD]), cache.run.samples) == (2, 5)
    cache.fill(batch(1), [], [HEAD], [0, 2, 4])  # not in the flash set: the teacher runs on these samples only
    assert (cache.rows_stored(batch(), [HEAD]), cache.run.samples) == (5, 8)
    cache.fill(batch(1), [], [HEAD], [])
    assert cache.run.forwards == 2


def test_outputs_that_are_kept_by_batch_are_filled_for_the_batch(tmp_path: Path) -> None:
    cache = TeacherCache(Teacher(), tmp_path)
    assert not cache.keeps_by_sample(batch(), [HEAD])
    assert cache.row_bytes(batch(), cache.compute(batch(), [HEAD])) is None
    cache.fill(batch(), [], [HEAD], [])
    again = TeacherCache(Teacher(), tmp_path)
    again.outputs(batch(), [HEAD])
    assert (again.run.forwards, again.rows_stored(batch(), [HEAD])) == (0, 0)


def test_size_of_a_row_is_that_of_its_numbers() -> None:
    cache = cache_by_sample()
    assert cache.row_bytes(batch(), cache.compute(batch(), [HEAD])) == 3 * 4
    assert cache.blockers([HEAD]) == []


def test_output_that_depends_on_other_samples_has_a_reason() -> None:
    class Similarities(nn.Module):
        def forward(self, x):
            return x @ x.T

    cache = TeacherCache(Similarities(), outputs=SampleOutputs(None, memory_bytes=2**20))
    cache.keep_by_sample(batch(), cache.compute(batch(), [HEAD]), {HEAD: None})
    (reason,) = cache.blockers([HEAD, TRUNK])
    assert "shape depends on the other samples" in reason


def test_cache_that_is_read_only_finds_features_and_changes_no_file(tmp_path: Path) -> None:
    features = TeacherCache(Teacher(), tmp_path).features(batch(), TAPS)
    damaged = next(tmp_path.glob("*.safetensors"))
    damaged.write_bytes(b"damaged")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*")}
    cache = TeacherCache(Teacher(), tmp_path, disk_gb=0, read_only=True)
    assert identical(cache.features(batch(), TAPS), features)
    assert cache.run.forwards == 1  # for the damaged one
    cache.features(batch(1), TAPS)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*")} == before


def test_a_full_disk_costs_one_warning_and_features_are_computed_again(tmp_path: Path, caplog) -> None:
    resource = pytest.importorskip("resource")
    teacher = Teacher()
    cache = TeacherCache(teacher, tmp_path / "cache", memory_gb=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # no file may grow
    try:
        found = [cache.features(batch(), TAPS) for _ in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert identical(*found)
    assert teacher.calls == 2
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the teacher's features are not kept on disk"
    ]
    assert not list((tmp_path / "cache").iterdir())
    cache.features(batch(), TAPS)  # there is room again
    TeacherCache(teacher, tmp_path / "cache").features(batch(), TAPS)
    assert teacher.calls == 3


def test_features_of_other_library_versions_are_computed_again(tmp_path: Path, monkeypatch) -> None:
    teacher = BertModel(BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4))
    before = TeacherCache(teacher).fingerprint
    assert TeacherCache(teacher).fingerprint == before
    monkeypatch.setattr("transformers.__version__", "0.0.1")
    assert TeacherCache(teacher).fingerprint != before
