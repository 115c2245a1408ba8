"""What each family's weights are: which read the residual stream, which write to it, and what lies between.

A family is a small table. Paths are those of the family's base model (`BertModel`, not `BertForMaskedLM`); in blocks
they are relative to the block, in `outputs` to the model around the base model. To start students of a family that is
not here, pass a table of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.weights import Part

Weight = str | Part


@dataclass(frozen=True)
class HeadSizes:
    """The attention heads of a model: how many read, how many are read from (fewer in grouped-query attention), and
    how many channels each has."""

    heads: int
    key_value_heads: int
    channels: int


@dataclass(frozen=True)
class Attention:
    """A part of a block whose inner units are attention heads.

    Args:
        query: reads the stream.
        key: reads the stream.
        value: reads the stream.
        output: writes to the stream.
        norm: before the readers, or behind the residual sum, as the family has it.
        head_norms: norms of each head's queries and keys.
        rotary: queries and keys are turned by rotary position embeddings: channels come in pairs of one frequency.
        scaled: scores are divided by the square root of a head's channels.
        position_table: a table (buckets, heads) of relative position biases; those of the first block stand for the
            blocks that have none.
    """

    query: Weight
    key: Weight
    value: Weight
    output: Weight
    norm: str
    head_norms: tuple[str, ...] = ()
    rotary: bool = False
    scaled: bool = True
    position_table: str | None = None


@dataclass(frozen=True)
class FeedForward:
    """A part of a block whose inner units are neurons.

    Args:
        readers: read the stream; more than one where the activation is gated. Those that a block lacks are left out.
        output: writes to the stream.
        norm: before the readers, or behind the residual sum, as the family has it.
    """

    readers: tuple[Weight, ...]
    output: Weight
    norm: str


@dataclass(frozen=True)
class Hidden:
    """A hidden layer behind the last block: it reads the stream, and its neurons are read by what comes next.

    Args:
        reader: the map.
        norm: of the hidden layer, where there is one.
        spans_stream: it is read by a table of embeddings, and so lives in the stream's own channels.
    """

    reader: Weight
    norm: str | None = None
    spans_stream: bool = False


@dataclass(frozen=True)
class Output:
    """What a model computes from the stream behind its last block: a hidden layer, if any, then a map to outputs.

    Args:
        last: the map to logits; None where the hidden layer is itself the output.
        hidden: the layer before it, if any.
    """

    last: Weight | None
    hidden: Hidden | None = None


Axes = Mapping[str, tuple[str, ...]]
"""For the path of a module (numbers of blocks left out) the roles of its weight's axes, as PyTorch stores them."""


def config_heads(model: nn.Module) -> HeadSizes:
    """The head sizes in a transformers configuration.

    Raises:
        ConfigurationError: the model has none.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "num_attention_heads"):
        raise ConfigurationError(
            f"the sizes of attention heads must be known, but {type(model).__name__} has no transformers configuration "
            "that tells them; give `heads` in the table of its family, a function from a model to HeadSizes."
        )
    heads = config.num_attention_heads
    width = getattr(config, "true_hidden_size", None) or config.hidden_size
    channels = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or width // heads
    return HeadSizes(heads, getattr(config, "num_key_value_heads", None) or heads, channels)


@dataclass(frozen=True)
class Family:
    """Where the weights of a family of models are.

    Args:
        blocks: the path of the list of blocks.
        parts: of a block, in the order in which they run.
        embeddings: tables and maps that write to the stream before the first block. Where norms stand behind the sum,
            but none behind the embeddings, the first table, or map with a bias, must be added at every position.
        norm_position: `"before"` the parts read the stream (GPT-2, Llama), or `"after"` the residual sum (BERT).
        centred: the norms take off the mean over channels, as LayerNorm does and RMSNorm does not.
        embedding_norm: behind the embeddings.
        final_norm: behind the last block.
        outputs: what comes behind it; those that a model lacks are left out.
        heads: the head sizes of a base model.
        heads_agree: head i means the same in all blocks (they share a table of position biases).
        axes: for families whose norms are gains and biases of single channels, the roles of the axes of every weight:
            students are then selections of channels (see `channels`), and `parts` and `outputs` are empty.

    Raises:
        ConfigurationError: a norm position that is not known, or a string in place of a tuple.

    Examples:
        >>> FAMILIES["bert"].parts[1]
        FeedForward(readers=('intermediate.dense',), output='output.dense', norm='output.LayerNorm')
    """

    blocks: str
    parts: tuple[Attention | FeedForward, ...]
    embeddings: tuple[Weight, ...]
    norm_position: Literal["before", "after"]
    centred: bool = True
    embedding_norm: str | None = None
    final_norm: str | None = None
    outputs: tuple[Output, ...] = ()
    heads: Callable[[nn.Module], HeadSizes] = field(default=config_heads, repr=False)  # else other in every process
    heads_agree: bool = False
    axes: Axes | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.norm_position not in ("before", "after"):
            problems.append(f"norm_position must be 'before' or 'after', but is {self.norm_position!r}.")
        given: list[tuple[str, Any]] = [("embeddings", self.embeddings)]
        given += [("readers", piece.readers) for piece in self.parts if isinstance(piece, FeedForward)]
        for name, value in given:
            if isinstance(value, str | Part):
                problems.append(f"{name} must be a tuple of weights, but is {value!r}; write ({value!r},).")
        if problems:
            raise ConfigurationError(problems)

    @property
    def norms_before(self) -> bool:
        """Whether norms stand before what reads the stream, rather than behind the residual sum."""
        return self.norm_position == "before"

    def depth(self, base: nn.Module) -> int:
        """The number of blocks of a base model."""
        return len(list(base.get_submodule(self.blocks).children()))


_TEXT = ("embeddings.word_embeddings", "embeddings.position_embeddings")


_MLM = "cls.predictions.transform."


_BERT = Family(
    blocks="encoder.layer",
    parts=(
        Attention(
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
        ),
        FeedForward(("intermediate.dense",), "output.dense", "output.LayerNorm"),
    ),
    embeddings=(*_TEXT, "embeddings.token_type_embeddings"),
    norm_position="after",
    embedding_norm="embeddings.LayerNorm",
    outputs=(
        Output("cls.predictions.decoder", Hidden(_MLM + "dense", _MLM + "LayerNorm", True)),
        Output("lm_head.decoder", Hidden("lm_head.dense", "lm_head.layer_norm", True)),
        Output("cls.seq_relationship", Hidden("{base}.pooler.dense")),
        Output("classifier.out_proj", Hidden("classifier.dense")),
        Output("classifier", Hidden("{base}.pooler.dense")),
        Output("classifier"),
        Output("qa_outputs"),
        Output(None, Hidden("{base}.pooler.dense")),
    ),
)


_LLAMA = Family(
    blocks="layers",
    parts=(
        Attention(
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "input_layernorm",
            head_norms=("self_attn.q_norm", "self_attn.k_norm"),
            rotary=True,
        ),
        FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "post_attention_layernorm"),
    ),
    embeddings=("embed_tokens",),
    norm_position="before",
    centred=False,
    final_norm="norm",
    outputs=(Output("lm_head"), Output("score"), Output("classifier"), Output("qa_outputs")),
)


_MOBILEBERT_AXES: Axes = {
    "embeddings.word_embeddings": ("row", "embedding"),
    "embeddings.position_embeddings": ("position", "stream"),
    "embeddings.token_type_embeddings": ("row", "stream"),
    "embeddings.embedding_transformation": ("stream", "trigram"),
    "embeddings.LayerNorm": ("stream",),
    "bottleneck.input.dense": ("inner", "stream"),
    "bottleneck.input.LayerNorm": ("inner",),
    "bottleneck.attention.dense": ("shared", "stream"),
    "bottleneck.attention.LayerNorm": ("shared",),
    "attention.self.query": ("query", "shared"),
    "attention.self.key": ("query", "shared"),
    "attention.self.value": ("value", "stream"),
    "attention.output.dense": ("inner", "value"),
    "attention.output.LayerNorm": ("inner",),
    "ffn.intermediate.dense": ("neuron", "inner"),
    "ffn.output.dense": ("inner", "neuron"),
    "ffn.output.LayerNorm": ("inner",),
    "intermediate.dense": ("neuron", "inner"),
    "output.dense": ("inner", "neuron"),
    "output.LayerNorm": ("inner",),
    "output.bottleneck.dense": ("stream", "inner"),
    "output.bottleneck.LayerNorm": ("stream",),
    "pooler.dense": ("pooled", "stream"),
    "cls.predictions": ("row",),
    "cls.predictions.transform.dense": ("word", "stream"),
    "cls.predictions.transform.LayerNorm": ("word",),
    "cls.predictions.dense": ("other word", "row"),
    "cls.predictions.decoder": ("row", "embedding"),
    "cls.seq_relationship": ("row", "pooled"),
    "classifier": ("row", "pooled"),
    "qa_outputs": ("row", "stream"),
}


FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": Family(
        blocks="transformer.layer",
        parts=(
            Attention("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"),
            FeedForward(("ffn.lin1",), "ffn.lin2", "output_layer_norm"),
        ),
        embeddings=_TEXT,
        norm_position="after",
        embedding_norm="embeddings.LayerNorm",
        outputs=(
            Output("vocab_projector", Hidden("vocab_transform", "vocab_layer_norm", True)),
            Output("classifier", Hidden("pre_classifier")),
            Output("classifier"),
            Output("qa_outputs"),
        ),
    ),
    "mobilebert": Family(
        blocks="encoder.layer",
        parts=(),
        embeddings=("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
        norm_position="after",
        axes=_MOBILEBERT_AXES,
    ),
    "gpt2": Family(
        blocks="h",
        parts=(
            Attention(
                Part("attn.c_attn", 0, 3),
                Part("attn.c_attn", 1, 3),
                Part("attn.c_attn", 2, 3),
                "attn.c_proj",
                "ln_1",
            ),
            FeedForward(("mlp.c_fc",), "mlp.c_proj", "ln_2"),
        ),
        embeddings=("wte", "wpe"),
        norm_position="before",
        final_norm="ln_f",
        outputs=(Output("lm_head"), Output("score"), Output("classifier"), Output("qa_outputs")),
    ),
    "vit": Family(
        blocks="layers",
        parts=(
            Attention(
                "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "layernorm_before"
            ),
            FeedForward(("mlp.fc1",), "mlp.fc2", "layernorm_after"),
        ),
        embeddings=(
            "embeddings.cls_token",
            "embeddings.position_embeddings",
            "embeddings.patch_embeddings.projection",
        ),
        norm_position="before",
        final_norm="layernorm",
        outputs=(Output("classifier"), Output(None, Hidden("{base}.pooler.dense"))),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "t5": Family(
        blocks="encoder.block",
        parts=(
            Attention(
                "layer.0.SelfAttention.q",
                "layer.0.SelfAttention.k",
                "layer.0.SelfAttention.v",
                "layer.0.SelfAttention.o",
                "layer.0.layer_norm",
                scaled=False,
                position_table="layer.0.SelfAttention.relative_attention_bias",
            ),
            FeedForward(
                ("layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"),
                "layer.1.DenseReluDense.wo",
                "layer.1.layer_norm",
            ),
        ),
        embeddings=("shared",),
        norm_position="before",
        centred=False,
        final_norm="encoder.final_layer_norm",
        outputs=(Output("classifier"),),
        heads_agree=True,
    ),
}
"""By `config.model_type`."""


def family_of(model: nn.Module, family: Family | None = None) -> tuple[str, nn.Module, Family] | None:
    """The base model inside a model, its path, and its family.

    Args:
        model: the base model itself, or any model around it.
        family: the table to look for; if not given, the one of a transformers configuration.

    Returns:
        None where no part of the model is of a known family.
    """
    for path, module in model.named_modules():
        kind = getattr(getattr(module, "config", None), "model_type", None)
        table = family or FAMILIES.get(str(kind))
        if table is not None and _has_blocks(module, table):
            return path, module, table
    return None


def _has_blocks(module: nn.Module, family: Family) -> bool:
    try:
        return family.depth(module) > 0
    except AttributeError:
        return False


def require_family(model: nn.Module, family: Family | None, owner: str) -> tuple[str, nn.Module, Family]:
    """As `family_of`.

    Raises:
        ConfigurationError: the model has no residual stream that is known.
    """
    found = family_of(model, family)
    if found is None:
        raise ConfigurationError(
            f"init='teacher' needs to know which weights of the {owner} read and write its residual stream; it knows "
            f"the families {', '.join(FAMILIES)}, but {type(model).__name__} holds none of them"
            + (" (its blocks are not where the given table says)" if family is not None else "")
            + "; give a table (autodistill.Family), or leave init out."
        )
    return found
