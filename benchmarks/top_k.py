"""What `top_k` changes: `python benchmarks/top_k.py`, ten minutes.

A small GPT-2 is trained on docstrings of the standard library, and students of half its width are distilled from it. On
held-out text the loss of the k largest logits and its gradient are compared with those of all logits, for a random and
for a distilled student; then students are distilled with each k, and compared by the divergence of all logits.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from common import machine, print_table, write_results
from text import docstrings
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.losses.functions import kl_divergence
from autodistill.losses.top_k import top_k_kl_divergence, top_k_logits
from autodistill.training import TrainingContext

VOCABULARY, LENGTH, SIZE, HELD_OUT = 8192, 64, 8, 12
KS = (8, 32, 128)
TEMPERATURES = (1.0, 2.0)


def main() -> None:
    """Train the teacher, compare, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher-steps", type=int, default=700)
    parser.add_argument("--student-steps", type=int, default=250)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    description = machine()
    batches = token_blocks()
    train, held_out = batches[:-HELD_OUT], batches[-HELD_OUT:]
    teacher = language_model(128, 2, seed=0)
    fit(teacher, train, arguments.teacher_steps)
    trained = {k: language_model(64, 2, seed=1) for k in (None, *KS)}
    for k, student in trained.items():
        distil(student, teacher, train, k, arguments.student_steps)
    students = {"random": language_model(64, 2, seed=1), "distilled": trained[None]}
    errors = [
        {"student": name, "temperature": temperature, "k": k, **error(student, teacher, held_out, k, temperature)}
        for name, student in students.items()
        for temperature in TEMPERATURES
        for k in KS
    ]
    outcomes = [{"k": k, **quality(student, teacher, held_out)} for k, student in trained.items()]
    print_results(errors, outcomes)
    own = quality(teacher, teacher, held_out)["perplexity"]
    results = {
        "machine": description,
        "vocabulary": VOCABULARY,
        "bytes_per_position": {"all": 4 * VOCABULARY, **{str(k): 8 * k + 4 for k in KS}},
        "steps": vars(arguments),
        "teacher_perplexity": own,
        "errors": errors,
        "students": outcomes,
    }
    print(f"the teacher's perplexity is {own:.1f}; written to {write_results('top_k', results)}")


def print_results(errors: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> None:
    """Print both tables."""
    print_table(
        "Loss and gradient of the k largest logits, against those of all",
        ["student", "T", "k", "bytes per position", "loss too small by", "cosine of gradients", "mass of the rest"],
        [
            [
                *(found[key] for key in ("student", "temperature", "k")),
                8 * found["k"] + 4,
                f"{found['loss']:.2%}",
                f"{found['cosine']:.4f}",
                f"{found['rest']:.1%}",
            ]
            for found in errors
        ],
    )
    print_table(
        "Students distilled with the k largest logits: held-out divergence of all logits, and perplexity (T = 1)",
        ["k", "divergence", "perplexity"],
        [[found["k"] or "all", f"{found['divergence']:.4f}", f"{found['perplexity']:.1f}"] for found in outcomes],
    )


def token_blocks() -> list[dict[str, torch.Tensor]]:
    """All docstrings as batches (8, 64) of tokens of a vocabulary of their own."""
    texts = docstrings()
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=["<end>"])
    tokens = [token for encoded in tokenizer.encode_batch(texts) for token in [*encoded.ids, 0]]
    rows = torch.tensor(tokens[: len(tokens) // (SIZE * LENGTH) * SIZE * LENGTH]).view(-1, SIZE, LENGTH)
    return [{"input_ids": block, "labels": block} for block in rows]


def language_model(width: int, depth: int, seed: int) -> GPT2LMHeadModel:
    """A random GPT-2 without dropout."""
    without = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_positions": LENGTH, "n_embd": width, "n_layer": depth, "n_head": width // 32}
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **without))


def fit(model: nn.Module, batches: list[dict[str, torch.Tensor]], steps: int) -> None:
    """Train a language model on its labels."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        optimizer.zero_grad()
        model(**batches[step % len(batches)]).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def distil(student: nn.Module, teacher: nn.Module, batches: list[Any], k: int | None, steps: int) -> None:
    """Regular distillation by the teacher's logits alone."""
    regular = {"train_steps": steps, "add_origin_loss": False, "learning_rate": 2e-3, "top_k": k}
    search = {"search_space": {"width": [64]}, "metrics": ["loss"]}
    config = AutoDistillationConfig.load({"search": search, "regular_distillation": regular})
    Distiller(teacher, config, batches, torch.device("cpu")).train(student, TrainingContext(seed=0))


def error(student: nn.Module, teacher: nn.Module, batches: list[Any], k: int, temperature: float) -> dict[str, float]:
    """By how much the loss is too small, the cosine of the gradients, and the teacher's mass outside of the k largest.

    Losses and gradients are means over all batches; the gradient is that of all parameters of the student.
    """
    models = copy.deepcopy(student).eval(), copy.deepcopy(student).eval()
    losses, rest = [0.0, 0.0], 0.0
    for batch in batches:
        with torch.no_grad():
            logits = teacher.eval()(input_ids=batch["input_ids"]).logits
        top = top_k_logits(logits, k, temperature)
        rest += (top.rest - (logits / temperature).logsumexp(-1)).exp().mean().item() / len(batches)
        outputs = [model(input_ids=batch["input_ids"]).logits for model in models]
        both = (
            kl_divergence(outputs[0], logits, None, temperature),
            top_k_kl_divergence(outputs[1], top, None, temperature),
        )
        for index, loss in enumerate(both):
            loss.backward()
            losses[index] += loss.item() / len(batches)
    whole, largest = (torch.cat([p.grad.flatten() for p in model.parameters()]) for model in models)
    cosine = torch.nn.functional.cosine_similarity(whole, largest, dim=0).item()
    return {"loss": 1 - losses[1] / losses[0], "cosine": cosine, "rest": rest}


@torch.no_grad()
def quality(student: nn.Module, teacher: nn.Module, batches: list[Any]) -> dict[str, float]:
    """The divergence of all logits from the teacher's, and the perplexity of the text."""
    outputs = [(student.eval()(**batch), teacher.eval()(**batch)) for batch in batches]
    divergence = sum(kl_divergence(s.logits, t.logits).item() for s, t in outputs) / len(outputs)
    entropy = sum(s.loss.item() for s, _ in outputs) / len(outputs)
    return {"divergence": divergence, "perplexity": float(torch.tensor(entropy).exp())}


if __name__ == "__main__":
    main()
