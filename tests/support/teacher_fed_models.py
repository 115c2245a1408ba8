"""Two transformers of other depths, batches of tokens for both, and flash distillation whose blocks are teacher-fed."""

from __future__ import annotations

import torch
from families import seeded
from naive_distillation import make_distiller
from small_models import Transformer

SIZES = (6, 6, 3)  # the last batch is smaller


def tokens():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 5, 8, generator=generator), torch.zeros(n, dtype=torch.long)) for n in SIZES]


def teacher_fed(teacher, data, **flash):
    return make_distiller(teacher, data, inputs="teacher", **flash)


def transformers(width=16, depths=(3, 5)):
    return seeded(lambda: Transformer(width, depths[0]), 1), seeded(lambda: Transformer(16, depths[1]))
