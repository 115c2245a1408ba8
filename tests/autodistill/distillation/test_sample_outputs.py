"""Outputs that are kept by sample are those of the batch; outputs that depend on more are kept by batch."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from families import seeded
from outside_families import CLASSES, FAMILIES, TEXT, built, next_words, tokens
from shuffled_samples import Counting, assert_equal, difference, distil, joined, make_distiller, shuffled
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.sample_outputs import (
    OutputKind,
    Probe,
    SampleOutputs,
    relative_difference,
    sample_problem,
)
from autodistill.losses.loss_types import LOSS_TYPES
from autodistill.losses.top_k import TopK, top_k_logits
from autodistill.models.taps import AUTO, Tap
from autodistill.samples import sample_keys

ROUNDING = 1e-5
"""Of weights, relative to how far they moved: what the teacher computes in another batch differs by rounding."""

LOGITS = Tap("")


def masked(lengths, width=None, **others) -> Batch:
    positions = torch.arange(width or max(lengths))
    return Batch({"attention_mask": (positions < torch.tensor(lengths)[:, None]).long(), **others})


# --- rows -------------------------------------------------------------------------------------------------------------


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 2)], ids=["(N,)", "(N, C)", "(N, C, H, W)"])
def test_rows_of_one_size_are_joined_in_any_order(shape, dtype) -> None:
    kind, feature = OutputKind(LOGITS, "teacher"), (random(4, *shape) * 3).to(dtype)
    rows = kind.split(feature, Batch((torch.zeros(4, 1), None)))
    order = [2, 0, 2]
    joined_rows = kind.join([rows[index] for index in order], Batch((torch.zeros(3, 1), None)))
    assert joined_rows.dtype == dtype
    assert torch.equal(joined_rows, feature[order])


@pytest.mark.parametrize("width", [4, 7])
@pytest.mark.parametrize("k", [None, 3])
def test_rows_without_padding_are_joined_for_batches_of_other_lengths(width: int, k: int | None) -> None:
    lengths, feature = [2, 4, 0, 6], random(4, 6, 5)
    kind = OutputKind(LOGITS, "teacher", "inputs", k, 2.0)
    rows = kind.split(feature, masked(lengths))
    assert [len(next(iter(row.values()))) for row in rows] == lengths
    order = [1, 2, 0, 0]
    found = kind.join([rows[index] for index in order], masked([lengths[index] for index in order], width))
    expected = {"feature": feature} if k is None else top_k_logits(feature, k, 2.0)._asdict()
    parts = {"feature": found} if k is None else found._asdict()
    assert parts.keys() == expected.keys()
    for name, part in parts.items():
        if name == "temperature":
            assert part.tolist() == [2.0] * 4
            continue
        assert part.shape[:2] == (4, width)
        for row, index in zip(part, order, strict=True):
            assert torch.equal(row[: lengths[index]], expected[name][index, : lengths[index]])
            assert not row[lengths[index] :].any()


def test_rows_of_a_decoder_are_as_long_as_its_labels() -> None:
    labels = torch.tensor([[4, -100, 5, -100], [3, -100, -100, -100]])
    batch = Batch({"attention_mask": torch.ones(2, 9), "labels": labels})
    rows = OutputKind(LOGITS, "teacher", "targets").split(random(2, 4, 5), batch)
    assert [tuple(row["feature"].shape) for row in rows] == [(3, 5), (1, 5)]


def test_kinds_have_one_name_if_and_only_if_they_are_alike() -> None:
    top_k = TopK((Tap("head"),), 3, 2.0)
    kinds = [
        OutputKind(LOGITS, "teacher"),
        OutputKind(LOGITS, "another"),
        OutputKind(Tap("head"), "teacher"),
        OutputKind(Tap("", "1"), "teacher"),
        OutputKind(LOGITS, "teacher", "inputs"),
        OutputKind(LOGITS, "teacher", "targets"),
        OutputKind.of(Tap("head"), "teacher", None, top_k),
        OutputKind(Tap("head"), "teacher", k=4, temperature=2.0),
        OutputKind(Tap("head"), "teacher", k=3, temperature=1.0),
    ]
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert OutputKind.of(LOGITS, "teacher", None, top_k).name == kinds[0].name
    assert OutputKind(Tap("", lambda output: output), "teacher").name is None


def test_rows_are_added_until_the_limit_and_the_first_row_of_a_sample_stays(tmp_path) -> None:
    for directory in (None, tmp_path):
        limit = 2 * 3 * 4
        outputs = SampleOutputs(directory, memory_bytes=limit, disk_bytes=limit)
        kind, batch = OutputKind(LOGITS, "teacher"), Batch((torch.arange(3.0)[:, None], None))
        outputs.add(batch.take([0, 1]), {kind: random(2, 3)})
        assert outputs.nbytes == limit
        more = outputs.add(batch.take([2]), {kind: random(1, 3)})
        assert torch.equal(more[kind][0]["feature"], random(1, 3)[0])
        found = outputs.rows(batch, [kind])[kind]
        assert [row is None for row in found] == [False, False, True]
        assert torch.equal(found[1]["feature"], random(2, 3)[1])


def test_what_is_on_disk_counts_once(tmp_path) -> None:
    kind, batch = OutputKind(LOGITS, "teacher"), Batch((torch.arange(3.0)[:, None], None))
    first = SampleOutputs(tmp_path, memory_bytes=0)
    first.add(batch, {kind: random(3, 50)})
    first.flush()
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    again = SampleOutputs(tmp_path, memory_bytes=0)
    before = again.nbytes
    again.add(batch.take([0]), {kind: random(1, 50)})
    assert before == again.nbytes == size


# --- what can be kept by sample -----------------------------------------------------------------------------------


def test_probe_pads_both_sides_of_samples_that_have_no_padding() -> None:
    content = {
        "input_ids": torch.arange(1, 21).reshape(4, 5),
        "attention_mask": torch.ones(4, 5).long(),
        "labels": torch.arange(1, 13).reshape(4, 3),
        "decoder_input_ids": torch.arange(12).reshape(4, 3),
        "pixel_values": torch.zeros(4, 5, 2, 2),
    }
    probe = Probe.of(Batch(content), pad_token=99)
    shapes = {name: tuple(tensor.shape) for name, tensor in probe.part.content.items()}
    assert shapes == {
        "input_ids": (2, 4),
        "attention_mask": (2, 4),
        "labels": (2, 2),
        "decoder_input_ids": (2, 2),
        "pixel_values": (2, 5, 2, 2),
    }
    assert torch.equal(probe.part.content["input_ids"], content["input_ids"][list(probe.indices), :4])
    whole = probe.whole.content
    assert whole["attention_mask"].sum(1).tolist() == [4, 4, 5, 5]
    assert whole["input_ids"][:, -1].tolist() == [99, 99, 15, 20]
    assert whole["labels"][:, -1].tolist() == [-100, -100, 9, 12]
    assert content["attention_mask"].all()
    assert sample_keys(probe.whole.take(probe.indices).content) == probe.part.sample_keys
    assert probe.with_all_padding().part.content["input_ids"].shape == (2, 5)


def test_probe_leaves_batches_that_are_padded_or_cannot_be() -> None:
    left = Batch({"attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])})
    for batch in (masked([3, 1, 2]), left, masked([1, 1]), Batch((random(3, 2), None)), masked([0, 2])):
        assert Probe.of(batch).whole is batch
    assert Probe.of(masked([3])).part.content["attention_mask"].shape == (1, 2)


def problem(feature_of, batch: Batch, padded=None) -> str | None:
    probe = Probe.of(batch)
    return sample_problem(OutputKind(LOGITS, "t", padded), probe, feature_of(probe.whole), feature_of(probe.part))


X = random(4, 3)


@pytest.mark.parametrize(
    ("feature_of", "words"),
    [
        (lambda batch: batch.inputs @ batch.inputs.T, "whose shape depends on the other samples"),
        (
            lambda batch: batch.inputs - batch.inputs.mean(0),
            "depends on the other samples or on padding: it differs by",
        ),
        (lambda batch: batch.inputs.mean(), "no axis of samples"),
        (lambda batch: batch.inputs.T, "no axis of samples"),
        (lambda batch: batch.inputs * torch.nan, "it differs by inf"),
        (lambda batch: batch.inputs[:, :1].expand(-1, 2**18 + 1), "takes 1.0 MiB a sample, more than 1; regular_"),
        (lambda batch: batch.inputs.cumsum(0), "depends on the other samples"),
        (lambda batch: batch.inputs, None),
    ],
    ids=["similarities", "centred", "a number", "turned", "NaN", "large", "of the order", "separable"],
)
def test_outputs_of_pairs_that_depend_on_other_samples_have_a_problem(feature_of, words) -> None:
    found = problem(feature_of, Batch((X, None)))
    assert found is None if words is None else words in found


def pooled(batch: Batch, *, counts: bool) -> torch.Tensor:
    mask = batch.content["attention_mask"].float()
    hidden = torch.ones(*mask.shape, 2) + mask[..., None]
    weights = mask if counts else torch.ones_like(mask)
    return (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("lengths", [[4, 3, 2, 4], [4, 4, 4, 4]], ids=["padded", "not padded"])
def test_outputs_that_depend_on_padding_have_a_problem(lengths) -> None:
    batch = masked(lengths)
    assert "depends on the other samples or on padding" in problem(lambda b: pooled(b, counts=False), batch)
    assert problem(lambda b: pooled(b, counts=True), batch) is None
    assert "whose shape depends" in problem(lambda b: b.content["attention_mask"].float(), batch)
    hidden = lambda b: torch.ones(*b.content["attention_mask"].shape, 2)  # noqa: E731
    assert problem(hidden, batch) == "has padding that is not known"
    assert problem(hidden, batch, "inputs") is None
    assert "not that of its padding" in problem(hidden, batch, "targets")
    maps = lambda b: torch.ones(b.size, 2, *2 * b.content["attention_mask"].shape[1:])  # noqa: E731
    assert problem(maps, batch) is not None


def test_relative_difference_is_that_of_norms() -> None:
    assert relative_difference(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_difference(torch.tensor([torch.nan]), torch.ones(1)) == float("inf")


# --- the assumption: no loss depends on what the teacher computes at padding ------------------------------------------


def words() -> dict:
    return joined(next_words(sizes=(5, 3)))


def tagger(width: int) -> nn.Module:
    return seeded(lambda: built("BertForTokenClassification", **BERT, num_labels=CLASSES)(width, 1), width)


BERT = {name: value for name, value in TEXT.items() if not name.startswith(("bos", "eos"))}
BODY = ("bert.encoder.layer.0", "bert.encoder.layer.0")


class Noise(nn.Module):
    """A teacher whose features at padding are something else."""

    def __init__(self, teacher: nn.Module, noise: float) -> None:
        super().__init__()
        self.model, self.noise = teacher, noise

        def replaced(module, args, kwargs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            mask = self.mask.bool()[..., None]
            changed = torch.where(mask, hidden, noise * torch.randn(hidden.shape, generator=torch.Generator()))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        for path in (BODY[1], "classifier"):
            teacher.get_submodule(path).register_forward_hook(replaced, with_kwargs=True)

    def forward(self, **inputs):
        self.mask = inputs["attention_mask"]
        return self.model(**inputs)


@pytest.mark.parametrize("on", ["hidden states", "predictions"])
@pytest.mark.parametrize("kind", LOSS_TYPES)
def test_no_loss_depends_on_what_the_teacher_computes_at_padding(kind: str, on: str) -> None:
    if on == "hidden states" and LOSS_TYPES[kind].needs_labels:
        on = "predictions"
    content = words()
    content["labels"] = content["labels"].where(content["labels"] < 0, content["labels"] % CLASSES)
    trained, received = [], []
    student = tagger(8)
    path = BODY[1] if on == "hidden states" else "classifier"
    mapping = {"layer_mappings_for_knowledge_transfer": [(BODY[0] if path == BODY[1] else path, f"model.{path}")]}
    for noise in (0.0, 100.0):
        distiller = make_distiller(
            Noise(tagger(16), noise), shuffled(content, 4), loss_types=kind, exact=True, train_steps=3, **mapping
        )
        trained.append(distil(distiller, student))
        received += distiller.cache.features(distiller.flash_set.batch(0), [Tap(f"model.{path}", AUTO)]).values()
    assert (received[0] - received[1]).abs().max() > 10
    assert trained[0][1] == trained[1][1]
    assert_equal(trained[0][0], trained[1][0])
    assert difference(trained[0][0], trained[1][0], student) == 0


# --- training by sample and by batch ----------------------------------------------------------------------------------

BY_BATCH = {
    "Funnel": "depends on the other samples or on padding",
    "ProphetNet": "depends on the other samples or on padding",
    "CANINE": "depends on the other samples or on padding",
    "wav2vec2": "has padding that is not known",
    "CLIP": "has rows whose shape depends on the other samples",
}
BY_SAMPLE = ("ELECTRA", "XLNet", "Mixtral", "GPT-NeoX", "BLOOM", "BART", "T5", "DINOv2", "U-Net", "PatchTST", "LSTM")


@pytest.mark.parametrize("name", [*BY_BATCH, *BY_SAMPLE])
def test_students_of_any_family_are_those_of_the_outputs_by_batch(name: str, caplog) -> None:
    family = FAMILIES[name]
    content, student, trained = joined(family.batches()), family.student(), {}
    with caplog.at_level(logging.INFO):
        for exact in (False, True):
            counting = Counting(family.teacher())
            distiller = make_distiller(counting.teacher, shuffled(content, 3), exact=exact)
            trained[exact] = (*distil(distiller, student), sum(counting.samples))
    assert difference(trained[False][0], trained[True][0], student) < ROUNDING
    assert any(not torch.equal(a, b) for a, b in zip(trained[True][0].parameters(), student.parameters(), strict=True))
    assert trained[False][1][:3] == trained[True][1][:3]  # of the first epoch
    assert trained[False][1] == pytest.approx(trained[True][1], rel=1e-5)
    if name in BY_BATCH:
        assert f"the teacher runs again for each batch, since the model's output[auto] {BY_BATCH[name]}" in caplog.text
    else:
        assert trained[False][2] <= 8 + 8 < trained[True][2]  # each sample, besides checks on the first batch
        assert "is kept by sample: in other batches it differs by" in caplog.text


def test_a_language_model_of_texts_without_a_mask_is_kept_by_sample() -> None:
    family = FAMILIES["OPT"]
    packed = {"input_ids": torch.randint(3, 30, (8, 6), generator=torch.Generator().manual_seed(0))}
    packed["labels"] = packed["input_ids"].clone()
    student, trained = family.student(), {}
    for exact in (False, True):
        counting = Counting(family.teacher())
        distiller = make_distiller(counting.teacher, shuffled(packed, 3), exact=exact)
        trained[exact] = (*distil(distiller, student), sum(counting.samples))
    assert difference(trained[False][0], trained[True][0], student) < ROUNDING
    assert trained[False][2] <= 8 + 8 < trained[True][2]


def classifier(width: int, **settings) -> nn.Module:
    sizes = BERT | {"num_labels": CLASSES, "hidden_dropout_prob": 0.1, "problem_type": "single_label_classification"}
    return seeded(lambda: built("BertForSequenceClassification", **sizes | settings)(width, 1), width)


def labelled_texts() -> dict:
    """Eight texts, of which two are alike."""
    content = joined(tokens(sizes=(5, 3)))
    content = {name: tensor.clone() for name, tensor in content.items()} | {"labels": torch.arange(8) % CLASSES}
    for tensor in content.values():
        tensor[7] = tensor[2]
    return content


TEXTS = labelled_texts()
DISTINCT = 7


class Endless(torch.utils.data.IterableDataset):
    """Samples without indices, in another order in each epoch."""

    def __iter__(self):
        for index in torch.randperm(8).tolist():
            yield {name: tensor[index] for name, tensor in TEXTS.items()}


def batches_of(loader) -> list:
    torch.manual_seed(0)
    return list(loader)


LOADERS = {
    "shuffled": lambda: shuffled(TEXTS, 3),
    "a last batch is dropped": lambda: shuffled(TEXTS, 3, drop_last=True),
    "one sample each": lambda: shuffled(TEXTS, 1),
    "larger than the data": lambda: shuffled(TEXTS, 20),
    "an epoch longer than the steps": lambda: shuffled(TEXTS, 3, indices=list(range(8)) * 4),
    "samples several times in a batch": lambda: shuffled(TEXTS, 6, indices=[0, 0, 1, 1, 2, 7, 7, 3]),
    "without indices": lambda: torch.utils.data.DataLoader(Endless(), 3),
    "one length": lambda: torch.utils.data.DataLoader(
        [{name: tensor[index] for name, tensor in TEXTS.items()} for index in range(8)], 3, shuffle=True
    ),
    "a list": lambda: batches_of(shuffled(TEXTS, 3)),
    "read by a process": lambda: shuffled(TEXTS, 3, num_workers=1),
}


@pytest.mark.parametrize("name", LOADERS)
def test_each_sample_is_computed_once_and_students_differ_by_rounding(name: str) -> None:
    student, trained, received = classifier(8), {}, []
    for exact in (False, True):
        counting = Counting(classifier(16))
        distiller = make_distiller(counting.teacher, LOADERS[name](), exact=exact)
        if not exact:
            distiller.resolve(student)
            checks = len(counting.samples)
        trained[exact] = distil(distiller, student)
        received.append(counting.samples)
    assert difference(trained[False][0], trained[True][0], student) < ROUNDING
    assert trained[False][1] == pytest.approx(trained[True][1], rel=1e-5)
    expected, seen, first_epoch = [], set(), True
    stream = itertools.islice(make_distiller(classifier(16), LOADERS[name]()).stream, 8)
    for step, batch in enumerate(stream):
        new = set(batch.sample_keys) - seen
        seen |= new
        if new:
            expected.append(max(len(new), min(2, batch.size)))  # a sample is not alone, as some models need
        first_epoch &= len(new) == batch.size
        if first_epoch:
            assert trained[False][1][step] == trained[True][1][step]
    assert received[0][checks:] == expected[1:]  # the first batch was computed to check the student
    assert len(seen) <= DISTINCT


def test_a_second_student_and_another_batch_size_cost_no_forward(tmp_path) -> None:
    from autodistill.distiller import Storage

    first = Counting(classifier(16))
    distil(make_distiller(first.teacher, shuffled(TEXTS, 3), Storage(tmp_path)), classifier(8))
    again = Counting(classifier(16))
    distiller = make_distiller(again.teacher, shuffled(TEXTS, 4), Storage(tmp_path))
    distiller.resolve(classifier(8))
    checks = len(again.samples)
    distil(distiller, classifier(8))
    distil(distiller, classifier(12))
    assert len(again.samples) == checks


class BatchStatistics(nn.Module):
    """Its logits depend on the other samples, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear((x - x.mean(0)) / (1 + x.std(0, unbiased=False)))


class MeanOfAll(nn.Module):
    """Its logits depend on the length of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(60, 6), nn.Linear(6, CLASSES)

    def forward(self, input_ids, attention_mask, labels=None):
        return self.head(self.embedding(input_ids).mean(1))


class FixedLength(MeanOfAll):
    """Takes inputs of one length only."""

    def forward(self, input_ids, attention_mask, labels=None):
        assert input_ids.shape[1] == 8
        return self.head((self.embedding(input_ids) * attention_mask[..., None]).mean(1))


class Squeezing(nn.Module):
    """Loses the axis of the samples if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x).squeeze()


OTHERS = {
    "batch statistics": (BatchStatistics, (random(8, 4), torch.arange(8) % 3), {}, False),
    "mean of all positions": (MeanOfAll, TEXTS, {}, False),
    "mean of all positions, no padding at first": (MeanOfAll, TEXTS, {"shuffle": False}, False),
    "one length": (FixedLength, TEXTS, {}, True),
    "axis of one sample": (Squeezing, (random(8, 4), torch.arange(8) % 3), {}, False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_teachers_whose_outputs_depend_on_the_batch_are_right(name: str) -> None:
    model, content, options, by_sample = OTHERS[name]
    if model is Squeezing:  # the second batch has one new sample
        options = {"indices": [0, 1, 2, 3, 4, 0, 1, 2, 3, 5], "batch_size": 5, "shuffle": False}
    if model is MeanOfAll and options:  # the first batch has texts of one length, later ones have others
        order = [int(index) for index in content["attention_mask"].sum(1).argsort(descending=True)]
        order = [order[0]] * 3 + order + order[::-1]
        options = {"shuffle": False, "indices": order}
    loader = shuffled(content, **{"batch_size": 3} | options)
    if model is FixedLength:
        loader = LOADERS["one length"]()
    trained, student, forwards = {}, seeded(model, 1), []
    for exact in (False, True):
        counting = Counting(seeded(model))
        trained[exact] = distil(make_distiller(counting.teacher, loader, exact=exact, loss_types="KL"), student)
        forwards.append(len(counting.samples))
    assert difference(trained[False][0], trained[True][0], student) < ROUNDING
    assert (forwards[0] < forwards[1]) == by_sample
