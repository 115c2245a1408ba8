"""The cost of a teacher: one pass over the data for all students, and nothing once its cache is full."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    BERT_LIKE,
    CLASSES,
    T5_LIKE,
    VOCABULARY,
    hugging_face,
    next_tokens,
    pictures,
    seeded,
    sentence_pairs,
    texts,
    twice,
)
from torch import nn

from autodistill import AutoDistillation
from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.tensors import identical
from autodistill.training import TrainingContext

SEARCH = {"search_space": {"width": [8], "depth": [1, 2, 3]}, "metrics": ["parameters"]}


def counted(teacher: nn.Module) -> list[int]:
    """The number of samples of each later forward of a teacher."""
    samples: list[int] = []

    def count(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        samples.append(len(args[0] if args else next(iter(kwargs.values()))))

    teacher.register_forward_pre_hook(count, with_kwargs=True)
    return samples


FLASH = {"train_steps": 3}
BERT = hugging_face("BertForSequenceClassification", **BERT_LIKE, num_labels=CLASSES)
VIT = hugging_face(
    "ViTForImageClassification",
    image_size=16,
    patch_size=4,
    num_labels=CLASSES,
    num_attention_heads=lambda width: width // 4,
    intermediate_size=twice,
)
GPT2 = hugging_face("GPT2LMHeadModel", "n_embd", "n_layer", n_head=2, vocab_size=VOCABULARY, n_positions=16)
T5 = hugging_face("T5ForConditionalGeneration", "d_model", "num_layers", **T5_LIKE)
FULL_CACHES = {
    "texts": (BERT, texts, {"flash_distillation": FLASH}),
    "texts, all mapped": (BERT, texts, {"flash_distillation": FLASH | {"automatic_mapping": "all"}}),
    "texts, inside": (BERT, texts, {"flash_distillation": FLASH | {"inputs": "teacher"}, "init": {}}),
    "texts, inside, without flash": (BERT, texts, {"init": {}}),
    "texts, batches": (BERT, texts, {"flash_distillation": FLASH, "regular_distillation": {"exact": True}}),
    "images, inside": (VIT, pictures, {"flash_distillation": FLASH, "init": {"importance": "gradients"}}),
    "next tokens": (GPT2, lambda: texts(labels=next_tokens), {"flash_distillation": FLASH}),
    "largest logits": (GPT2, lambda: texts(labels=next_tokens), {"regular_distillation": {"top_k": 4}}),
    "sentence pairs": (T5, sentence_pairs, {"flash_distillation": FLASH}),
}


@pytest.mark.parametrize("case", FULL_CACHES)
def test_a_distiller_with_a_full_cache_trains_the_same_students_without_the_teacher(tmp_path: Path, case: str) -> None:
    make, data, sections = FULL_CACHES[case]
    regular = {"train_steps": 5} | sections.get("regular_distillation", {})
    settings = AutoDistillationConfig.load({"search": SEARCH, **sections, "regular_distillation": regular})
    forwards, results = [], []
    for _ in range(2):
        teacher = seeded(lambda: make(16, 4))
        forwards.append(counted(teacher))
        distiller = Distiller(teacher, settings, data(), torch.device("cpu"), Storage(tmp_path / "cache"))
        students = [seeded(lambda depth=depth: make(8, depth), depth) for depth in (2, 1)]
        for student in students:
            distiller.check(student)
            distiller.train(student, TrainingContext(seed=0))
        distiller.cache.flush()
        results.append([student.state_dict() for student in students])
    assert forwards[0]
    assert forwards[1] == []
    assert identical(*results)


@pytest.mark.parametrize("case", ["texts", "texts, inside", "images, inside"])
def test_the_teacher_runs_once_on_each_batch_and_on_little_more(tmp_path: Path, case: str) -> None:
    make, data, sections = FULL_CACHES[case]
    settings = AutoDistillationConfig.load({"search": SEARCH, **sections, "regular_distillation": {"train_steps": 5}})
    teacher, batches = seeded(lambda: make(16, 4)), data()
    samples = counted(teacher)
    distiller = Distiller(teacher, settings, batches, torch.device("cpu"), Storage(tmp_path / "cache"))
    for depth in (2, 1, 3):
        student = seeded(lambda depth=depth: make(8, depth), depth)
        distiller.check(student)
        distiller.train(student, TrainingContext(seed=0))
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    inspected = sizes[0]  # which modules run
    # Outputs of half a batch are compared with those of the whole, for texts with other padding.
    compared = sizes[0] // 2 + (sizes[0] if make is BERT else 0)
    measured = sum(sizes) if "init" in sections else 0  # the importance of neurons
    asked = 1 if make is VIT else 0  # whether it predicts the next token, for least squares
    assert sum(samples) == sum(sizes) + inspected + compared + measured + asked


def test_a_search_finds_the_cache_of_another_one_and_runs_no_teacher(tmp_path: Path) -> None:
    config = {
        "search": SEARCH | {"search_algorithm": "Random", "max_trials": 2, "seed": 3},
        "flash_distillation": FLASH,
        "regular_distillation": {"train_steps": 4},
        "init": "teacher",
    }
    runs, results = [], []
    for name in ("first", "second"):
        teacher = seeded(lambda: BERT(16, 4))
        runs.append(counted(teacher))
        agent = AutoDistillation(
            lambda architecture: BERT(**architecture),
            config,
            teacher_model=teacher,
            train_dataloader=texts(),
            search_dir=tmp_path / name,
            keep="all",
            device="cpu",
            show_progress_bar=False,
        )
        agent.search_loop()
        trials = agent.search_result
        results.append([(trial.architecture, agent.load_model(trial).state_dict()) for trial in trials])
        if name == "first":
            (tmp_path / "second").mkdir()
            (tmp_path / "first" / "teacher_cache").rename(tmp_path / "second" / "teacher_cache")
            shutil.rmtree(tmp_path / "first")
    assert runs[0]
    assert runs[1] == []
    assert identical(*results)


@pytest.mark.parametrize("name", ["importance", "subspace"])
def test_a_damaged_file_of_the_start_is_computed_again_with_a_warning(tmp_path: Path, caplog, name: str) -> None:
    make, data, sections = FULL_CACHES["texts, inside"]
    settings = AutoDistillationConfig.load({"search": SEARCH, **sections, "regular_distillation": {"train_steps": 1}})
    results = []
    for _ in range(2):
        distiller = Distiller(seeded(lambda: make(16, 4)), settings, data(), torch.device("cpu"), Storage(tmp_path))
        student = seeded(lambda: make(8, 2), 1)
        distiller.train(student, TrainingContext(seed=0))
        results.append(student.state_dict())
        (path,) = tmp_path.glob(f"{name}-*.safetensors")
        path.write_bytes(path.read_bytes()[:40])
    assert f"{path}, computed from the teacher, is damaged and is recomputed" in caplog.text
    assert identical(*results)
