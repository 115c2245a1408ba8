"""A search with an elastic student over tiny BERT classifiers, with untimed metrics."""

from __future__ import annotations

import torch
from families import seeded
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from autodistill import AutoDistillation, SearchResult, TrialState
from autodistill.distillation.step_loop import StepLoop

VOCABULARY, LENGTH = 20, 5
SPACE = {"hidden_size": [4, 8], "num_hidden_layers": [1, 2], "intermediate_size": [6, 12]}
TEACHER = {"hidden_size": 12, "num_hidden_layers": 3, "intermediate_size": 24}


def bert(architecture, *, dropout=0.1, model=BertForSequenceClassification, **others):
    """A classifier whose heads have two channels, unless their number is chosen."""
    width = architecture["hidden_size"]
    sizes = {"num_attention_heads": width // 2, "num_hidden_layers": 1, "intermediate_size": 12} | architecture
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    tokens = {"vocab_size": VOCABULARY, "max_position_embeddings": 8, "pad_token_id": 0, "num_labels": 3}
    return model(BertConfig(**(sizes | dropouts | tokens | others), attn_implementation="sdpa"))


def make_teacher(**changes):
    return seeded(lambda: bert(TEACHER | changes, initializer_range=0.3), 1)


def batches(count=6, size=8):
    """Tokens, of which some are padding, and labels."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for _ in range(count):
        tokens = torch.randint(1, VOCABULARY, (size, LENGTH), generator=generator)
        tokens[0, -2:] = 0
        labels = torch.randint(0, 3, (size,), generator=generator)
        made.append({"input_ids": tokens, "attention_mask": (tokens > 0).long(), "labels": labels})
    return made


def evaluate(student):
    """How close the predictions of a student are to the teacher's."""
    (batch,) = batches(1, 16)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return {
        "closeness": -nn.functional.mse_loss(student(**inputs).logits, make_teacher().eval()(**inputs).logits).item()
    }


def make_config(space=None, elastic=None, regular=None, **search):
    """The settings; `regular` may be None for the default ones, or False for none."""
    searched = {
        "search_space": space or SPACE,
        "search_algorithm": "Random",
        "metrics": ["closeness", "parameters"],
        "max_trials": 6,
        "seed": 3,
    }
    config = {
        "search": searched | search,
        "elastic": {"train_steps": 8, "learning_rate": 1e-2} | (elastic or {}),
        "checkpoint_steps": 3,
        "init": {"least_squares": "none", "batches": 6},
    }
    if regular is False:
        config["regular_distillation"] = None  # without the section, regular distillation is automatic
    else:
        config["regular_distillation"] = {"train_steps": 4} | (regular or {})
    return config


def make_search(search_dir, config=None, *, build=bert, **arguments):
    return AutoDistillation(
        lambda architecture: build(architecture),
        config or make_config(),
        **{
            "teacher_model": make_teacher(),
            "train_dataloader": batches(),
            "eval_func": evaluate,
            "search_dir": search_dir,
            "keep": "all",
            "device": "cpu",
            "show_progress_bar": False,
        }
        | arguments,
    )


def outcomes(search_dir):
    """What must not depend on interruptions: records, weights of the elastic student, and of the students."""
    result = SearchResult.load(search_dir)
    records = [
        (t.number, t.architecture, t.state, t.metrics, t.after_flash, t.details.get("distillation")) for t in result
    ]
    kept = [load_file(t.directory / "student/model.safetensors") for t in result.completed if t.student]
    losses = (search_dir / "elastic/progress.jsonl").read_text()
    return records, losses, [*map(load_file, elastic_files(search_dir)), *kept]


def elastic_files(search_dir):
    """The files of the trained elastic student."""
    return sorted((search_dir / "elastic").glob("*.safetensors"))


def content(search_dir):
    """The bytes and the time of the last change of these files."""
    return [(file.read_bytes(), file.stat().st_mtime_ns) for file in elastic_files(search_dir)]


def assert_same(left, right):
    """Both outcomes are equal, to the bit."""
    assert left[:2] == right[:2]
    for a, b in zip(left[2], right[2], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def paused(search):
    return [trial for trial in search.search_result if trial.state is TrialState.PAUSED]


def elastic_steps(monkeypatch, *, stop_at=None, by=None):
    """Counts the steps of the training of the elastic student; before step `stop_at`, `by` is raised."""
    steps = []
    update = StepLoop._update

    def counting(loop, *arguments):
        if loop.name.startswith("elastic"):
            steps.append(loop.name)
            if len(steps) == stop_at:
                raise by
        update(loop, *arguments)

    monkeypatch.setattr(StepLoop, "_update", counting)
    return steps
