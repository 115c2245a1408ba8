"""The features that a task computes from rows, and its metrics, against formulas written out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from saved_teachers import BERT, GPT2, make_tokenizer
from scipy.stats import rankdata
from torch import nn

from autodistill.batch import Batch
from autodistill.cli.tasks import TASKS, Encoder, accuracy, encode_texts, encode_words, language_modelling, similarity

INPUTS = ["input_ids", "attention_mask"]


def encoder(**changes):
    return Encoder(
        **{"preprocessor": make_tokenizer(), "inputs": INPUTS, "max_length": 8, "labels": {"a": 0, "b": 1}} | changes
    )


class Logits(nn.Module):
    """Returns the logits that it is called with."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, logits, labels):
        return SimpleNamespace(logits=logits)


class Embeddings(Logits):
    """Returns the vectors that it is called with, those of a teacher or of a student."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, **vectors):
        return vectors[self.kind]


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size in (3, 2):
        tokens = torch.randint(5, 20, (size, 6), generator=generator)
        labels = tokens.masked_fill(torch.rand(size, 6, generator=generator) < 0.4, -100)
        made.append(Batch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}))
    return made


def test_texts_get_the_features_that_both_models_take_and_the_label():
    features = encode_texts(encoder(), {"text": ["w0 w1", "w2"], "label": ["b", "a"]})
    assert features == {
        "input_ids": [[2, 5, 6, 3], [2, 7, 3]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1]],
        "labels": [1, 0],
    }


def test_pairs_of_texts_are_one_input_and_long_ones_are_truncated():
    features = encode_texts(encoder(inputs=["input_ids"], max_length=6), {"text": ["w0"], "text_pair": ["w1 w2 w3"]})
    assert features == {"input_ids": [[2, 5, 3, 6, 7, 3]]}


def test_tag_counts_at_the_first_token_of_its_word():
    features = encode_words(encoder(), {"tokens": [["w1s", "w1", "w1"]], "tags": [["b", "a", "b"]]})
    assert features["input_ids"] == [[2, 6, 25, 6, 6, 3]]
    assert features["labels"] == [[-100, 1, -100, 0, 1, -100]]


def test_accuracy_is_the_share_of_right_labels_among_those_that_count():
    right, wrong = [0.0, 1.0], [1.0, 0.0]
    first = Batch({"logits": torch.tensor([[right, right, wrong]]), "labels": torch.tensor([[1, -100, 1]])})
    second = Batch({"logits": torch.tensor([[right, wrong]]), "labels": torch.tensor([[1, 1]])})
    assert accuracy(Logits(), [first, second])(Logits()) == {"accuracy": 2 / 4}


@pytest.mark.parametrize(("model", "settings", "shift"), [("BertForMaskedLM", BERT, 0), ("GPT2LMHeadModel", GPT2, 1)])
def test_loss_of_a_language_model_is_the_mean_over_all_tokens_that_count(model, settings, shift):
    torch.manual_seed(0)
    kind = getattr(transformers, model)
    student = kind(kind.config_class(**settings, vocab_size=20)).eval()
    total, counted = 0.0, 0
    for batch in batches():
        content = batch.content
        logits = student(input_ids=content["input_ids"], attention_mask=content["attention_mask"]).logits
        logarithms = logits.double().log_softmax(dim=-1)
        for row, labels in enumerate(content["labels"].tolist()):
            for position in range(len(labels) - shift):
                label = labels[position + shift]
                if label != -100:
                    total -= logarithms[row, position, label].item()
                    counted += 1
    assert language_modelling(student, batches())(student)["eval_loss"] == pytest.approx(total / counted, rel=1e-5)


def test_similarity_is_the_correlation_of_ranks_of_cosines():
    generator = torch.Generator().manual_seed(0)
    vectors = {kind: torch.randn(6, 4, generator=generator) for kind in ("teacher", "student")}
    parts = [Batch({kind: value[rows] for kind, value in vectors.items()}) for rows in (slice(0, 4), slice(4, 6))]
    given = similarity(Embeddings("teacher"), parts)(Embeddings("student"))["spearman"]
    ranks = []
    for value in vectors.values():
        array = value.double().numpy()
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        ranks.append(rankdata([array[i] @ array[j] for i in range(6) for j in range(i + 1, 6)]))
    assert given == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert similarity(Embeddings("teacher"), parts)(Embeddings("teacher"))["spearman"] == pytest.approx(1.0)


def test_teacher_runs_once_on_the_held_out_texts_however_often_it_is_scored():
    teacher, calls = Embeddings("teacher"), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    score = similarity(teacher, [Batch({"teacher": vectors[:3]}), Batch({"teacher": vectors[3:]})])
    assert [score(teacher), score(teacher)] == [{"spearman": pytest.approx(1.0)}] * 2
    assert len(calls) == 2  # batches


@pytest.mark.parametrize("name", TASKS)
def test_class_of_a_task_is_one_of_transformers(name):
    assert hasattr(getattr(transformers, TASKS[name].auto_class), "from_pretrained")
