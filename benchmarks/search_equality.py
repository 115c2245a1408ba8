"""Whether the students of a search depend on an interruption, or on the teacher's cache.

Every search runs in a process of its own. One is killed in the middle of its second trial; two copies of its directory
are resumed, one of them without the teacher's cache.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from search_jobs import encoded_paragraphs
from search_watch import TEACHER_CACHE, Options
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding

from autodistill import AutoDistillation
from autodistill.config.regular_distillation import RegularDistillationConfig

MODES = (True, False) if "exact" in RegularDistillationConfig.model_fields else (None,)
TEXTS, BATCH, TRIALS = 64, 8, 3


def equality(options: Options) -> dict[str, Any]:
    """The number of tensors that differ from those of an uninterrupted search, in each mode of the cache."""
    return {
        "differing_tensors": {
            {True: "exact", False: "by sample", None: "only mode"}[exact]: _compare(
                options.directory / str(exact), exact
            )
            for exact in MODES
        }
    }


def _compare(directory: Path, exact: bool | None) -> dict[str, int]:
    directory.mkdir()
    counted = directory / "steps.txt"
    whole, resumed, without_cache = (directory / name for name in ("whole", "resumed", "without_cache"))
    _in_process(whole, exact, None, counted)
    kill_at = int(counted.read_text()) * 11 // 20  # of all optimizer steps: in the second of three trials
    _in_process(resumed, exact, kill_at, None)
    shutil.copytree(resumed, without_cache)
    shutil.rmtree(without_cache / TEACHER_CACHE)
    for search_dir in (resumed, without_cache):
        _in_process(search_dir, exact, None, None)
    expected = _students(whole)
    return {"tensors": len(expected)} | {
        name: sum(not torch.equal(expected[key], found) for key, found in _students(search_dir).items())
        + len(expected.keys() ^ _students(search_dir).keys())
        for name, search_dir in (("resumed", resumed), ("cache_deleted", without_cache))
    }


def _students(search_dir: Path) -> dict[tuple[str, str], torch.Tensor]:
    files = sorted(search_dir.glob("trials/*/student/**/*.safetensors"))
    return {
        (str(file.relative_to(search_dir)), name): tensor for file in files for name, tensor in load_file(file).items()
    }


def _in_process(search_dir: Path, exact: bool | None, kill_at: int | None, counted: Path | None) -> None:
    """Run or resume the search in a process; it ends itself after `kill_at` optimizer steps, or writes their number.

    Raises:
        RuntimeError: the process did not end as it should.
    """
    process = multiprocessing.get_context("spawn").Process(target=_search, args=(search_dir, exact, kill_at, counted))
    process.start()
    process.join()
    expected = 0 if kill_at is None else -signal.SIGKILL
    if process.exitcode != expected:
        raise RuntimeError(f"the search in {search_dir} should end with {expected}, but ended with {process.exitcode}.")


def _search(search_dir: Path, exact: bool | None, kill_at: int | None, counted: Path | None) -> None:
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    steps = 0

    def count(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)
    _agent(search_dir, exact).search_loop()
    if counted is not None:
        counted.write_text(str(steps))


def _agent(search_dir: Path, exact: bool | None) -> AutoDistillation:
    tokenizer, rows = encoded_paragraphs(TEXTS, max_length=32)
    names = sorted({name for name, _ in rows})
    data = [tokens | {"labels": names.index(name)} for name, tokens in rows]
    collator = DataCollatorWithPadding(tokenizer)

    def bert(layers: int, width: int) -> BertForSequenceClassification:
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=len(tokenizer),
                num_labels=len(names),
                num_hidden_layers=layers,
                hidden_size=width,
                num_attention_heads=2,
                intermediate_size=2 * width,
            )
        )

    torch.manual_seed(0)
    teacher = bert(4, 64)
    return AutoDistillation(
        lambda architecture: bert(**architecture),
        {
            "search": {
                "search_space": {"layers": [1, 2, 3], "width": [16, 32]},
                "search_algorithm": "Random",
                "metrics": ["parameters"],
                "max_trials": TRIALS,
                "seed": 0,
            },
            "checkpoint_steps": 5,
            "flash_distillation": {"train_steps": 4},
            "regular_distillation": {"train_steps": 24} | ({} if exact is None else {"exact": exact}),
        },
        teacher_model=teacher,
        train_dataloader=DataLoader(data, BATCH, shuffle=True, collate_fn=lambda rows: dict(collator(rows))),
        eval_func=lambda student: {},
        search_dir=search_dir,
        keep="all",
        device="cpu",
        show_progress_bar=False,
    )
