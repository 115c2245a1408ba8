"""Students at full width and depth, written from their teacher in float64, which must compute the same function.

Every gain and bias is random, since initial ones (one and zero) hide mistakes. The rotations P that are exact depend on
the norms: LayerNorms after the residual sum commute only with permutations of channels; before the readers, with
rotations that keep the constant vector; RMSNorms before the readers with every rotation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from families import BERT_LIKE, CLASSES, LLAMA_LIKE, VOCABULARY, half, hugging_face, pictures, texts
from scipy.linalg import helmert
from torch import nn

from autodistill.initialization.from_teacher import TeacherStart, initialize_from_teacher
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import family_of

WIDTH, DEPTH = 16, 3
SELECTION, PERMUTATION = "permutation, μ = 0", "permutation"
KEEPS_CONSTANT, ORTHOGONAL = "orthogonal, P·1 = 1", "orthogonal"

EXACT = 1e-10
"""The rounding error of float64."""
SINGLE = 1e-4
"""The error if the model computes its norms in float32."""


def token_batch(**more: Any) -> dict[str, Any]:
    """Tokens with padding."""
    return texts()[0] | more


def sentence_pair_batch() -> dict[str, Any]:
    """Tokens with padding, of two kinds."""
    batch = token_batch()
    return batch | {"token_type_ids": (torch.arange(batch["input_ids"].shape[1]) > 3).long().expand(4, -1)}


def picture_batch() -> dict[str, Any]:
    return {"pixel_values": pictures()[0]["pixel_values"].double()}


@dataclass(frozen=True)
class IdentityCase:
    """One row of the table.

    Attributes:
        make: `(width, depth) -> model`.
        directions: the most general P that is exact.
        batch: returns the arguments of the models.
        error: the maximal difference of outputs.
        layers: another order of the teacher's blocks, with which it is exact too.
    """

    make: Callable[[int, int], nn.Module]
    directions: str
    batch: Callable[[], dict[str, Any]] = field(default=token_batch)
    error: float = EXACT
    layers: tuple[int, ...] = (2, 0, 2)

    def teacher(self) -> nn.Module:
        return randomised(self.make(WIDTH, DEPTH), 1)


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """The model in float64 and eval mode, with every weight, gain and bias random."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.double().eval().named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        gain = parameter.dim() == 1 and name.endswith("weight")
        parameter.data = 1 + values / 2 if gain else values * (0.3 if parameter.dim() > 1 else 0.5)
    if getattr(model, "config", None) is not None and getattr(model.config, "tie_word_embeddings", False):
        model.tie_weights()
    return model


def square_directions(kind: str, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """P, (width, width), float64."""
    generator = torch.Generator().manual_seed(seed)
    if kind in (SELECTION, PERMUTATION):
        return torch.eye(width, dtype=torch.float64)[:, torch.randperm(width, generator=generator)]
    if kind == ORTHOGONAL:
        return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    mean_free = torch.from_numpy(helmert(width).T.copy())
    return mean_free @ square_directions(ORTHOGONAL, width - 1, seed) @ mean_free.T + 1 / width


def square_subspace(kind: str, scale: float = 1.0) -> TeacherSubspace:
    """A subspace that is the whole space, with a mean for every boundary if the family subtracts one."""
    generator = torch.Generator().manual_seed(1)
    means = torch.zeros(1, WIDTH, dtype=torch.float64)
    if kind == PERMUTATION:
        means = torch.randn(DEPTH + 1, WIDTH, generator=generator, dtype=torch.float64)
    return TeacherSubspace(
        means, square_directions(kind), torch.full((WIDTH,), scale, dtype=torch.float64), explained=1.0
    )


@dataclass(frozen=True)
class Errors:
    """The largest differences from the teacher: of all outputs, and of the matched last hidden states.

    They are absolute if the teacher's values are below one, else relative to the largest of them.
    """

    outputs: float
    matched: float


def identity_errors(
    case: IdentityCase, *, kind: str | None = None, layers: Sequence[int] | None = None
) -> tuple[Errors, TeacherStart]:
    """Write a student from its teacher at full width and depth, and compare the two."""
    return compare(case, square_subspace(kind or case.directions), layers)


def compare(case: IdentityCase, subspace: TeacherSubspace, layers: Sequence[int] | None) -> tuple[Errors, TeacherStart]:
    teacher, student = case.teacher(), randomised(case.make(WIDTH, DEPTH), 2)
    start = initialize_from_teacher(student, teacher, subspace, layers=layers)
    return errors(reordered(teacher, layers) if layers is not None else teacher, student, start, case.batch()), start


def reordered(teacher: nn.Module, layers: Sequence[int]) -> nn.Module:
    """A copy whose blocks have the weights of these blocks; a table in one block for all stays in that block."""
    model = copy.deepcopy(teacher)
    (_, student_base, family), (_, base, _) = family_of(model), family_of(teacher)
    teacher_blocks = list(base.get_submodule(family.blocks).children())
    for block, layer in zip(student_base.get_submodule(family.blocks).children(), layers, strict=True):
        block.load_state_dict(teacher_blocks[layer].state_dict(), strict=False)
    return model


@torch.no_grad()
def errors(teacher: nn.Module, student: nn.Module, start: TeacherStart, batch: dict[str, Any]) -> Errors:
    teacher_outputs, student_outputs = (floats(model(**batch)) for model in (teacher, student))
    hidden_states = [family_of(model)[1](**batch)[0] for model in (teacher, student)]
    matched = hidden_states[1] @ start.matcher.weight.T + start.matcher.bias
    if teacher_outputs[0].shape == hidden_states[0].shape and torch.equal(teacher_outputs[0], hidden_states[0]):
        student_outputs[0] = matched  # a base model returns hidden states in the student's directions
    return Errors(
        max(difference(a, b) for a, b in zip(teacher_outputs, student_outputs, strict=True)),
        difference(hidden_states[0], matched),
    )


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def floats(output: Any) -> list[torch.Tensor]:
    """The tensors of an output, without caches."""
    return [value for value in output.to_tuple() if isinstance(value, torch.Tensor) and value.is_floating_point()]


def quarter(width: int) -> int:
    return width // 4


UNTIED = {"tie_word_embeddings": False, "use_cache": False}
DISTILBERT_LIKE = {
    "width_name": "dim",
    "depth_name": "n_layers",
    "vocab_size": VOCABULARY,
    "n_heads": quarter,
    "hidden_dim": 24,
    "max_position_embeddings": 16,
}
GPT2_LIKE = {
    "width_name": "n_embd",
    "depth_name": "n_layer",
    "vocab_size": VOCABULARY,
    "n_head": quarter,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VIT_LIKE = {
    "image_size": 16,
    "patch_size": 8,
    "num_attention_heads": quarter,
    "intermediate_size": 24,
    "num_labels": CLASSES,
}

MOBILEBERT_LIKE = BERT_LIKE | {
    "embedding_size": half,
    "intra_bottleneck_size": lambda width: 3 * width // 4,
    "num_attention_heads": lambda width: width // 8,
    "num_feedforward_networks": 3,
}

MODERNBERT_LIKE = {
    "vocab_size": VOCABULARY,
    "num_attention_heads": quarter,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "local_attention": 4,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 0),
}
DEBERTA_V3_LIKE = BERT_LIKE | {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
DEBERTA_V2_LIKE = BERT_LIKE | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2}
OPT_LIKE = {
    "vocab_size": VOCABULARY,
    "ffn_dim": 24,
    "num_attention_heads": quarter,
    "max_position_embeddings": 16,
    "word_embed_proj_dim": lambda width: width,
    "pad_token_id": 0,
}
GPT_NEOX_LIKE = BERT_LIKE | {
    "use_cache": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
DINOV2_LIKE = {
    "image_size": 16,
    "patch_size": 8,
    "num_attention_heads": quarter,
    "mlp_ratio": 2,
    "num_labels": CLASSES,
}
PHI3_LIKE = BERT_LIKE | {"num_key_value_heads": quarter, "rms_norm_eps": 1e-6}

CASES = {
    **{
        f"MobileBERT, {name}": IdentityCase(hugging_face(model, **MOBILEBERT_LIKE), SELECTION, sentence_pair_batch)
        for name, model in {
            "pre-training": "MobileBertForPreTraining",
            "words": "MobileBertForMaskedLM",
            "classes": "MobileBertForSequenceClassification",
            "tokens": "MobileBertForTokenClassification",
            "spans": "MobileBertForQuestionAnswering",
            "pooled": "MobileBertModel",
        }.items()
    },
    "BERT, pre-training": IdentityCase(
        hugging_face("BertForPreTraining", **BERT_LIKE), PERMUTATION, sentence_pair_batch
    ),
    "BERT, classes": IdentityCase(
        hugging_face("BertForSequenceClassification", **BERT_LIKE, num_labels=3),
        PERMUTATION,
        sentence_pair_batch,
    ),
    "BERT, spans": IdentityCase(hugging_face("BertForQuestionAnswering", **BERT_LIKE), PERMUTATION),
    "BERT, pooled": IdentityCase(hugging_face("BertModel", **BERT_LIKE), PERMUTATION),
    "RoBERTa, words": IdentityCase(hugging_face("RobertaForMaskedLM", **BERT_LIKE), PERMUTATION),
    "RoBERTa, classes": IdentityCase(
        hugging_face("RobertaForSequenceClassification", **BERT_LIKE, num_labels=3), PERMUTATION
    ),
    "XLM-RoBERTa, tokens": IdentityCase(
        hugging_face("XLMRobertaForTokenClassification", **BERT_LIKE, num_labels=3), PERMUTATION
    ),
    "DistilBERT, words": IdentityCase(hugging_face("DistilBertForMaskedLM", **DISTILBERT_LIKE), PERMUTATION),
    "DistilBERT, classes": IdentityCase(
        hugging_face("DistilBertForSequenceClassification", **DISTILBERT_LIKE, num_labels=3), PERMUTATION
    ),
    "GPT-2, words": IdentityCase(hugging_face("GPT2LMHeadModel", **GPT2_LIKE, **UNTIED), KEEPS_CONSTANT),
    "GPT-2, classes": IdentityCase(
        hugging_face("GPT2ForSequenceClassification", **GPT2_LIKE, use_cache=False, num_labels=3), KEEPS_CONSTANT
    ),
    "GPT-2, spans": IdentityCase(
        hugging_face("GPT2ForQuestionAnswering", **GPT2_LIKE, use_cache=False), KEEPS_CONSTANT
    ),
    "ViT, classes": IdentityCase(hugging_face("ViTForImageClassification", **VIT_LIKE), KEEPS_CONSTANT, picture_batch),
    "ViT, pooled": IdentityCase(hugging_face("ViTModel", **VIT_LIKE), KEEPS_CONSTANT, picture_batch),
    "Llama, words": IdentityCase(hugging_face("LlamaForCausalLM", **LLAMA_LIKE, **UNTIED), ORTHOGONAL, error=SINGLE),
    "Llama, classes": IdentityCase(
        hugging_face("LlamaForSequenceClassification", **LLAMA_LIKE, **UNTIED, num_labels=3), ORTHOGONAL, error=SINGLE
    ),
    "Mistral, words": IdentityCase(
        hugging_face("MistralForCausalLM", **LLAMA_LIKE, **UNTIED), ORTHOGONAL, error=SINGLE
    ),
    "Qwen2, words": IdentityCase(hugging_face("Qwen2ForCausalLM", **LLAMA_LIKE, **UNTIED), ORTHOGONAL, error=SINGLE),
    "Qwen3, words": IdentityCase(hugging_face("Qwen3ForCausalLM", **LLAMA_LIKE, **UNTIED), ORTHOGONAL, error=SINGLE),
    **{
        name: IdentityCase(
            hugging_face(model, "d_model", "num_layers", vocab_size=VOCABULARY, d_kv=4, d_ff=24, num_heads=4),
            ORTHOGONAL,
            error=SINGLE,
        )
        for name, model in {"T5 encoder": "T5EncoderModel", "T5 encoder, tokens": "T5ForTokenClassification"}.items()
    },
    **{
        f"ELECTRA, {name}": IdentityCase(hugging_face(model, **BERT_LIKE | settings), PERMUTATION, sentence_pair_batch)
        for name, (model, settings) in {
            "words": ("ElectraForMaskedLM", {"embedding_size": 12}),
            "words, embeddings of the stream's width": ("ElectraForMaskedLM", {"embedding_size": lambda width: width}),
            "replaced tokens": ("ElectraForPreTraining", {"embedding_size": 12}),
            "classes": ("ElectraForSequenceClassification", {"embedding_size": lambda width: width, "num_labels": 3}),
            "tokens": ("ElectraForTokenClassification", {"embedding_size": 12}),
            "spans": ("ElectraForQuestionAnswering", {"embedding_size": 12}),
            "base": ("ElectraModel", {"embedding_size": 12}),
        }.items()
    },
    **{
        f"MPNet, {name}": IdentityCase(hugging_face(model, **BERT_LIKE), PERMUTATION)
        for name, model in {
            "words": "MPNetForMaskedLM",
            "classes": "MPNetForSequenceClassification",
            "tokens": "MPNetForTokenClassification",
            "spans": "MPNetForQuestionAnswering",
            "pooled": "MPNetModel",
        }.items()
    },
    **{
        f"DeBERTa, {name}": IdentityCase(hugging_face(model, **settings), SELECTION)
        for name, (model, settings) in {
            "words": ("DebertaV2ForMaskedLM", DEBERTA_V3_LIKE),
            "classes": ("DebertaV2ForSequenceClassification", DEBERTA_V3_LIKE | {"num_labels": 3}),
            "words, own maps of positions": ("DebertaV2ForMaskedLM", DEBERTA_V2_LIKE),
            "words, embeddings as decoder": ("DebertaV2ForMaskedLM", DEBERTA_V3_LIKE | {"legacy": False}),
            "tokens, queries of positions": (
                "DebertaV2ForTokenClassification",
                DEBERTA_V2_LIKE | {"pos_att_type": ["p2c"]},
            ),
            "spans, no relative positions": ("DebertaV2ForQuestionAnswering", BERT_LIKE),
            "base": ("DebertaV2Model", DEBERTA_V3_LIKE),
        }.items()
    },
    **{
        f"ModernBERT, {name}": IdentityCase(
            hugging_face(model, **MODERNBERT_LIKE | settings), SELECTION, error=SINGLE, layers=(0, 2, 1)
        )
        for name, (model, settings) in {
            "words": ("ModernBertForMaskedLM", {}),
            "words, untied": ("ModernBertForMaskedLM", {"tie_word_embeddings": False, "decoder_bias": False}),
            "classes": ("ModernBertForSequenceClassification", {"classifier_pooling": "mean", "num_labels": 3}),
            "tokens, biases": (
                "ModernBertForTokenClassification",
                dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
            ),
            "spans": ("ModernBertForQuestionAnswering", {}),
            "base": ("ModernBertModel", {}),
        }.items()
    },
    "OPT, words": IdentityCase(hugging_face("OPTForCausalLM", **OPT_LIKE, **UNTIED), KEEPS_CONSTANT),
    "OPT, classes": IdentityCase(
        hugging_face("OPTForSequenceClassification", **OPT_LIKE, use_cache=False, num_labels=3), KEEPS_CONSTANT
    ),
    "OPT, spans": IdentityCase(hugging_face("OPTForQuestionAnswering", **OPT_LIKE, use_cache=False), KEEPS_CONSTANT),
    "Gemma, words": IdentityCase(
        hugging_face("GemmaForCausalLM", **LLAMA_LIKE | {"intermediate_size": 24}, **UNTIED), ORTHOGONAL, error=SINGLE
    ),
    "Gemma, classes": IdentityCase(
        hugging_face("GemmaForSequenceClassification", **LLAMA_LIKE, **UNTIED, num_labels=3), ORTHOGONAL, error=SINGLE
    ),
    **{
        f"GPT-NeoX, {name}": IdentityCase(hugging_face(model, **GPT_NEOX_LIKE, **more), KEEPS_CONSTANT)
        for name, model, more in (
            ("words", "GPTNeoXForCausalLM", {}),
            ("words, sequential", "GPTNeoXForCausalLM", {"use_parallel_residual": False}),
            ("tokens", "GPTNeoXForTokenClassification", {"num_labels": 3}),
            ("spans", "GPTNeoXForQuestionAnswering", {}),
        )
    },
    "DINOv2, classes": IdentityCase(
        hugging_face("Dinov2ForImageClassification", **DINOV2_LIKE), KEEPS_CONSTANT, picture_batch
    ),
    "Phi-3, words": IdentityCase(hugging_face("Phi3ForCausalLM", **PHI3_LIKE, **UNTIED), ORTHOGONAL, error=SINGLE),
    "Phi-3, partly rotary": IdentityCase(
        hugging_face(
            "Phi3ForCausalLM",
            **PHI3_LIKE,
            **UNTIED,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        ORTHOGONAL,
        error=SINGLE,
    ),
}
