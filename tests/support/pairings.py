"""A student of half its teacher's width and depth, in a selection of channels, so that its weights are known."""

from __future__ import annotations

import torch
from families import BERT_LIKE, LLAMA_LIKE, hugging_face
from identity_cases import GPT2_LIKE, UNTIED, randomised

from autodistill.initialization.pairing import Pairing
from autodistill.initialization.subspace import TeacherSubspace

WIDTH, DEPTH = 16, 4
CHANNELS = [0, 2, 3, 5, 8, 9, 12, 15]
"""The channels of the teacher that the student keeps."""
EXPLAINED = 0.125

MAKERS = {
    "BERT": hugging_face("BertForMaskedLM", **BERT_LIKE),
    "Llama": hugging_face("LlamaForCausalLM", **LLAMA_LIKE, **UNTIED),
    "tied Llama": hugging_face("LlamaForCausalLM", **LLAMA_LIKE, use_cache=False, tie_word_embeddings=True),
    "GPT-2": hugging_face("GPT2LMHeadModel", **GPT2_LIKE, **UNTIED),
}


def means() -> torch.Tensor:
    """One mean for each boundary of the teacher's blocks, (boundaries, D)."""
    return torch.randn(DEPTH + 1, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def pairing(name: str, *, mean: bool = False, scale: float = 1.0) -> Pairing:
    """A student and a teacher of random weights, in float64; with `mean`, each boundary has a mean of its own."""
    teacher, student = randomised(MAKERS[name](WIDTH, DEPTH), 1), randomised(MAKERS[name](WIDTH // 2, DEPTH // 2), 2)
    subspace = TeacherSubspace(
        means() if mean else torch.zeros(1, WIDTH, dtype=torch.float64),
        torch.eye(WIDTH, dtype=torch.float64)[:, CHANNELS],
        torch.full((WIDTH // 2,), scale, dtype=torch.float64),
        explained=EXPLAINED,
    )
    return Pairing.of(student, teacher, subspace)
