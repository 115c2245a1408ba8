"""The table of model families: where their weights are, and what their configurations call their sizes.

`FAMILIES` has one entry for each family of the transformers library. Its `weights` are a table: which weights read the
residual stream, which write to it, and what lies between. Paths are those of the family's base model (`BertModel`, not
`BertForMaskedLM`); in blocks they are relative to the block, in `outputs` to the model around the base model. To start
students of a family that is not listed here, pass your own table.

A new family is one entry here, and one of `CASES` in tests/support/identity_cases.py: a student of full width must
compute what its teacher does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.weights import Part, has, has_bias, join, left_out, part, shape, takes_in_constants
from search_spaces import SearchSpace

Weight = str | Part


@dataclass(frozen=True)
class HeadSizes:
    """The attention heads of a model: how many compute queries, how many keys and values (fewer in grouped-query
    attention), and the channels of each."""

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
        norm: before the readers, or after the residual sum, as the family has it.
        head_norms: norms of each head's queries and keys.
        rotary: queries and keys are rotated by rotary position embeddings: channels come in pairs of one frequency.
        scaled: scores are divided by the square root of a head's channels.
        position_table: a table (buckets, heads) of relative position biases; blocks without one use that of the first
            block. A path that begins with {base}. leads from the base model to one table for all blocks.
        position_query: reads the rows of `Family.position_rows`, on the side of the queries; blocks without one read
            them with `query`.
        position_key: likewise, on the side of the keys.
        scale: a vector that multiplies what the output writes (LayerScale); a student's is 1.
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
    position_query: Weight | None = None
    position_key: Weight | None = None
    scale: str | None = field(default=None, repr=False)

    @property
    def queries(self) -> tuple[Weight, ...]:
        """What computes one side of the scores: from the stream, then from the rows of positions."""
        return (self.query,) if self.position_query is None else (self.query, self.position_query)

    @property
    def keys(self) -> tuple[Weight, ...]:
        """What computes the other side."""
        return (self.key,) if self.position_key is None else (self.key, self.position_key)


@dataclass(frozen=True)
class FeedForward:
    """A part of a block whose inner units are neurons.

    Args:
        readers: read the stream; more than one if the activation is gated. Those that a block lacks are left out.
        output: writes to the stream.
        norm: before the readers, or after the residual sum, as the family has it.
        scale: a vector that multiplies what the output writes (LayerScale); a student's is 1.
    """

    readers: tuple[Weight, ...]
    output: Weight
    norm: str
    scale: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Hidden:
    """A hidden layer after the last block: it reads the stream, and its neurons are read by what comes next.

    Args:
        reader: the map.
        norm: of the hidden layer, if any.
        spans_stream: it is read by a table of embeddings, so its channels are those of the embeddings: of the stream,
            unless `Family.embedding_map` leads to it.
    """

    reader: Weight
    norm: str | None = None
    spans_stream: bool = False


@dataclass(frozen=True)
class Output:
    """What a model computes from the stream after its last block: a hidden layer, if any, then a map to outputs.

    Args:
        last: the map to logits; None where the hidden layer is itself the output.
        hidden: the layer before it, if any.
        bias: a vector that is added to the outputs, where no map has it.
        reads: how many positions, or means of positions, it reads, one after the other.
    """

    last: Weight | None
    hidden: Hidden | None = None
    bias: str | None = None
    reads: int = field(default=1, repr=False)


def output_path(spec: Weight, base: str) -> str:
    """The path of an output: next to the base model, or inside it if it begins with {base}.

    Examples:
        >>> output_path("classifier", "model.bert"), output_path("{base}.pooler.dense", "model.bert")
        ('model.classifier', 'model.bert.pooler.dense')
    """
    path = part(spec).path
    owner = base if path.startswith("{base}.") else base.rpartition(".")[0]
    return join(owner, path.removeprefix("{base}."))


def config_heads(model: nn.Module) -> HeadSizes:
    """The head sizes in a transformers configuration.

    Raises:
        ConfigurationError: the model has none.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "num_attention_heads"):
        raise ConfigurationError(
            f"the sizes of attention heads must be known, but {type(model).__name__} has no transformers configuration "
            "that has them; set `heads` in the table of its family to a function from a model to HeadSizes."
        )
    heads = config.num_attention_heads
    width = getattr(config, "true_hidden_size", None) or config.hidden_size
    channels = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or width // heads
    return HeadSizes(heads, getattr(config, "num_key_value_heads", None) or heads, channels)


class WeightTable(ABC):
    """Where the weights of a family are: what the two kinds, `Family` and `ChannelFamily`, have in common.

    Attributes:
        blocks: the path of the list of blocks.
        embeddings: tables and maps that write to the stream before the first block.
        heads: the head sizes of a base model.
        gain_offset: what norms add to their weight.
    """

    blocks: str
    embeddings: tuple[Weight, ...]
    heads: Callable[[nn.Module], HeadSizes]
    gain_offset: float = 0.0

    def depth(self, base: nn.Module) -> int:
        """The number of blocks of a base model."""
        return len(list(base.get_submodule(self.blocks).children()))

    def width(self, base: nn.Module) -> int | None:
        """The number of channels of a base model's stream; None if it has none of the embeddings."""
        return next((shape(base, spec)[0] for spec in self.embeddings if has(base, spec)), None)

    def kinds(self, base: nn.Module) -> list[object]:
        """What distinguishes the blocks of a base model: weights of a block suit one of the same kind only."""
        return [None] * self.depth(base)

    @property
    def text(self) -> str:
        """The text by which tables are compared, equal in all processes and versions, since searches record it."""
        return repr(self)

    @property
    @abstractmethod
    def selects_channels(self) -> bool:
        """Whether students use a selection of the stream's channels, rather than any subspace of it."""

    @property
    @abstractmethod
    def keeps_constant(self) -> bool:
        """Whether the subspace of a student must hold the constant vector (see `StreamDecomposition`)."""

    @property
    @abstractmethod
    def rotary(self) -> bool:
        """Whether the channels of heads come in pairs that rotary position embeddings rotate."""

    @abstractmethod
    def mean_blocker(self, base: nn.Module) -> str | None:
        """The reason why students cannot absorb a mean that is subtracted from the stream; None if they can.

        Args:
            base: a base model of the family.
        """

    @abstractmethod
    def writers(self, base: nn.Module) -> list[str]:
        """The paths of the maps in the blocks that read heads or neurons and write to the stream."""

    @property
    @abstractmethod
    def in_blocks(self) -> list[str]:
        """The paths, in a block, of the weights that the table names."""

    @abstractmethod
    def outside_blocks(self, base: str) -> list[str]:
        """The paths of the weights outside of blocks that the table names, of which a model may lack some.

        Args:
            base: the path of the base model.
        """


_ADDED = ("bias", "position_query", "position_key", "embedding_map", "position_rows", "position_norm", "refused")
"""Fields that tables of earlier versions did not have."""


@dataclass(frozen=True)
class Family(WeightTable):
    """Where the weights are of models whose stream is read through norms, or normalised after every sum.

    Args:
        blocks: the path of the list of blocks.
        parts: of a block, in the order in which they run.
        embeddings: tables and maps that write to the stream before the first block. If norms follow the sum
            but none follows the embeddings, the first table, or map with a bias, must be added at every position.
        norm_position: `"before"` the parts read the stream (GPT-2, Llama), or `"after"` the residual sum (BERT).
        centred: the norms subtract the mean over channels, as LayerNorm does and RMSNorm does not.
        embedding_norm: after the embeddings.
        final_norm: after the last block.
        outputs: what comes after it; those that a model lacks are left out.
        heads: the head sizes of a base model.
        heads_agree: head i corresponds to head i in all blocks (they share a table of position biases).
        embedding_map: leads from the embeddings, which then have a space of their own, to the stream. It follows the
            norm after the embeddings. A model whose embeddings are as wide as its stream lacks it.
        position_rows: a table of vectors for relative positions, as wide as the stream, which the queries and keys of
            all blocks read (DeBERTa). It has no mean to subtract, so none is subtracted from the stream.
        position_norm: after that table.
        refused: by the path of a module in the base model, the reason why a model that has it cannot be written.
        settings: what the configuration of a model must have for the table to hold.
        gain_offset: what norms add to their weight: 1 in Gemma, whose gain is 1 + weight.
        scaled_embeddings: embeddings are multiplied by the square root of the model's width.
        parallel: all parts of a block may read the stream before the block, so that only their sum is complete.

    Raises:
        ConfigurationError: an unknown norm position, or a string instead of a tuple.

    Examples:
        >>> FAMILIES["bert"].weights.parts[1]
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
    heads: Callable[[nn.Module], HeadSizes] = field(default=config_heads, repr=False)  # its address would be in `text`
    heads_agree: bool = False
    embedding_map: Weight | None = None
    position_rows: Weight | None = None
    position_norm: str | None = None
    refused: Mapping[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    gain_offset: float = field(default=0.0, repr=False)
    scaled_embeddings: bool = field(default=False, repr=False)
    parallel: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        problems = []
        if self.norm_position not in ("before", "after"):
            problems.append(f"norm_position must be 'before' or 'after', but is {self.norm_position!r}.")
        tuples: list[tuple[str, Any]] = [("embeddings", self.embeddings)]
        tuples += [("readers", unit.readers) for unit in self.parts if isinstance(unit, FeedForward)]
        for name, value in tuples:
            if isinstance(value, str | Part):
                problems.append(f"{name} must be a tuple of weights, but is {value!r}; write ({value!r},).")
        if problems:
            raise ConfigurationError(problems)

    @property
    def text(self) -> str:
        text = repr(self)
        for name in _ADDED:  # as recorded by versions without these fields
            text = text.replace(f", {name}=None", "")
        added = {name: getattr(self, name) for name in ("settings", "gain_offset", "scaled_embeddings", "parallel")}
        later = "".join(f", {name}={value!r}" for name, value in added.items() if value)
        return text.removesuffix(")") + f", axes=None{later})"  # as recorded when both kinds were one class

    @property
    def selects_channels(self) -> bool:
        return False

    def width(self, base: nn.Module) -> int | None:
        chosen = self.embedding_map
        return shape(base, chosen)[0] if chosen is not None and has(base, chosen) else super().width(base)

    def kinds(self, base: nn.Module) -> list[object]:
        depth = self.depth(base)
        types = getattr(getattr(base, "config", None), "layer_types", None) or ()
        norms = [
            [left_out(base, join(f"{self.blocks}.{block}", unit.norm)) for unit in self.parts] for block in range(depth)
        ]
        return list(zip(map(tuple, norms), types if len(types) == depth else [None] * depth, strict=True))

    @property
    def norms_before(self) -> bool:
        """Whether norms precede what reads the stream, rather than follow the residual sum."""
        return self.norm_position == "before"

    @property
    def keeps_constant(self) -> bool:
        return self.norms_before and self.centred

    @property
    def rotary(self) -> bool:
        return any(isinstance(unit, Attention) and unit.rotary for unit in self.parts)

    def mean_blocker(self, base: nn.Module) -> str | None:
        if self.norms_before:
            return "norms before what reads the stream"
        if self.final_norm is not None:
            return "a norm after its last block"
        if self.position_rows is not None:
            return "a table of positions that its queries and keys read"
        weights = [part(spec) for specs in self.required_weights() for spec in specs]
        blocks = [f"{self.blocks}.{index}" for index in range(self.depth(base))]
        maps = [Part(join(block, spec.path), spec.index, spec.of) for block in blocks for spec in weights]
        if not all(has_bias(base, spec) for spec in maps if has(base, spec)):
            return "maps or norms without bias in its blocks"
        tables = [spec for spec in self.embeddings if has(base, spec)]
        if self.embedding_norm is None and not any(takes_in_constants(base, spec) for spec in tables):
            return "neither norm nor bias in its embeddings"
        return None

    def writers(self, base: nn.Module) -> list[str]:
        blocks = [f"{self.blocks}.{index}" for index in range(self.depth(base))]
        return [join(block, part(unit.output).path) for block in blocks for unit in self.parts]

    @property
    def in_blocks(self) -> list[str]:
        optional: list[Weight | None] = []
        for unit in self.parts:
            optional.append(unit.scale)
            if isinstance(unit, Attention):
                optional += [*unit.head_norms, unit.position_table, unit.position_query, unit.position_key]
        required = [spec for specs in self.required_weights() for spec in specs]
        return [part(spec).path for spec in (*required, *optional) if spec is not None]

    def outside_blocks(self, base: str) -> list[str]:
        norms = (self.embedding_norm, self.final_norm, self.position_norm)
        inside = (*self.embeddings, self.embedding_map, self.position_rows, *norms)
        outputs: list[Weight | None] = []
        for output in self.outputs:
            outputs += [output.last, *((output.hidden.reader, output.hidden.norm) if output.hidden else ())]
        paths = [join(base, part(spec).path) for spec in inside if spec is not None]
        return [*paths, *(output_path(spec, base) for spec in outputs if spec is not None)]

    def required_weights(self) -> list[tuple[Weight, ...]]:
        """The weights that every block must have; of each tuple one is enough."""
        found: list[tuple[Weight, ...]] = []
        for unit in self.parts:
            found += [(unit.output,), (unit.norm,)]
            found += [(unit.query,), (unit.key,), (unit.value,)] if isinstance(unit, Attention) else [unit.readers]
        return found


@dataclass(frozen=True)
class ChannelFamily(WeightTable):
    """Where the weights are of models that scale and shift every channel separately instead of normalising.

    Students are selections of the teacher's channels, heads and neurons (see `initialization.channel_selection`).

    Args:
        blocks: the path of the list of blocks.
        embeddings: tables that write to the stream before the first block.
        axes: for the path of a module (numbers of blocks left out) the roles of its weight's axes, as PyTorch stores
            them; each role is an entry of `channel_selection.SELECTIONS`.
        heads: the head sizes of a base model.

    Examples:
        >>> FAMILIES["mobilebert"].weights.axes["attention.self.query"]
        ('query', 'shared')
    """

    blocks: str
    embeddings: tuple[Weight, ...]
    axes: Mapping[str, tuple[str, ...]]
    heads: Callable[[nn.Module], HeadSizes] = field(default=config_heads, repr=False)

    @property
    def selects_channels(self) -> bool:
        return True

    @property
    def keeps_constant(self) -> bool:
        return False

    @property
    def rotary(self) -> bool:
        return False

    def mean_blocker(self, base: nn.Module) -> str | None:
        return None

    def writers(self, base: nn.Module) -> list[str]:
        return []

    @property
    def in_blocks(self) -> list[str]:
        return [*self.axes]

    def outside_blocks(self, base: str) -> list[str]:
        return [join(owner, path) for path in self.axes for owner in (base, base.rpartition(".")[0])]


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model; the feed-forward width is None if it follows from the width."""

    layers: int
    width: int
    heads: int
    feed_forward: int | None


@dataclass(frozen=True)
class ConfigFields:
    """What a family's configuration calls its sizes, and which of its fields depend on others.

    What holds for every configuration of the transformers library (heads divide the width) is in
    `integrations.huggingface.model_builder`.

    Args:
        layers: the name of the number of blocks.
        width: of the width of the stream.
        heads: of the number of attention heads.
        feed_forward: of the width of the feed-forward layers.
        key_value_heads: of the number of key-value heads, if there may be fewer of them.
        attention_width: `config -> field`: the width that the heads divide.
        derived: by the name of a field, `config -> value`: it follows from other fields.
        constraints: what else must hold, as expressions with names of fields in braces.
    """

    layers: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    feed_forward: str = "intermediate_size"
    key_value_heads: str | None = None
    attention_width: Callable[[Any], str] = field(default=lambda config: "hidden_size", repr=False)
    derived: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict, repr=False)
    constraints: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[str, str, str, str]:
        """The names of the four sizes, in the order of `ModelSizes`."""
        return self.layers, self.width, self.heads, self.feed_forward


@dataclass(frozen=True)
class ModelFamily:
    """One entry of `FAMILIES`: one family's weights, fields and usual sizes.

    Args:
        weights: where they are; `init='teacher'` needs it.
        fields: of its configuration.
        usual_sizes: those of its usual model, from which a ready-made space of students follows.
        space: the ready-made space, if it does not follow from a teacher's sizes.
    """

    weights: WeightTable
    fields: ConfigFields = field(default_factory=ConfigFields)
    usual_sizes: ModelSizes | None = None
    space: SearchSpace | None = None


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


_DISTILBERT = Family(
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
)


_GPT2 = Family(
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
)


_OPT = Family(
    blocks="decoder.layers",
    parts=(
        Attention(
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "self_attn_layer_norm"
        ),
        FeedForward(("fc1",), "fc2", "final_layer_norm"),
    ),
    embeddings=("decoder.embed_tokens", "decoder.embed_positions"),
    norm_position="before",
    final_norm="decoder.final_layer_norm",
    outputs=(Output("lm_head"), Output("score"), Output("qa_outputs")),
    settings={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
)


_PHI3 = replace(
    _LLAMA,
    parts=(
        Attention(
            Part("self_attn.qkv_proj", 0, 3),  # of one size each: as many key-value heads as heads
            Part("self_attn.qkv_proj", 1, 3),
            Part("self_attn.qkv_proj", 2, 3),
            "self_attn.o_proj",
            "input_layernorm",
            rotary=True,
        ),
        FeedForward(
            (Part("mlp.gate_up_proj", 0, 2), Part("mlp.gate_up_proj", 1, 2)),
            "mlp.down_proj",
            "post_attention_layernorm",
        ),
    ),
)


_GEMMA = replace(_LLAMA, gain_offset=1.0, scaled_embeddings=True)


_GPT_NEOX = Family(
    blocks="layers",
    parts=(
        Attention(
            Part("attention.query_key_value", 0, 3, by_head=True),
            Part("attention.query_key_value", 1, 3, by_head=True),
            Part("attention.query_key_value", 2, 3, by_head=True),
            "attention.dense",
            "input_layernorm",
            rotary=True,
        ),
        FeedForward(("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", "post_attention_layernorm"),
    ),
    embeddings=("embed_in",),
    norm_position="before",
    final_norm="final_layer_norm",
    outputs=(Output("lm_head"), Output("score"), Output("classifier"), Output("qa_outputs")),
    parallel=True,
)


_DINOV2 = Family(
    blocks="encoder.layer",
    parts=(
        Attention(
            "attention.q_proj",
            "attention.k_proj",
            "attention.v_proj",
            "attention.o_proj",
            "norm1",
            scale="layer_scale1.lambda1",
        ),
        FeedForward(("mlp.fc1",), "mlp.fc2", "norm2", scale="layer_scale2.lambda1"),
    ),
    embeddings=(
        "embeddings.cls_token",
        "embeddings.mask_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection",
    ),
    norm_position="before",
    final_norm="layernorm",
    outputs=(Output("classifier", reads=2),),  # the first token, and the mean of the patches
    settings={"use_swiglu_ffn": False},
)


_VIT = Family(
    blocks="layers",
    parts=(
        Attention("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "layernorm_before"),
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
)


_T5 = Family(
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
)


_MOBILEBERT = ChannelFamily(
    blocks="encoder.layer",
    embeddings=("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
    axes={
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
    },
)


def _mobilebert_attention_width(config: Any) -> str:
    """MobileBERT attends inside its bottleneck, if it has one."""
    return "intra_bottleneck_size" if config.use_bottleneck else "hidden_size"


_ELECTRA = replace(
    _BERT,
    outputs=(
        Output("generator_lm_head", Hidden("generator_predictions.dense", "generator_predictions.LayerNorm", True)),
        Output("discriminator_predictions.dense_prediction", Hidden("discriminator_predictions.dense")),
        Output("classifier.out_proj", Hidden("classifier.dense")),
        Output("classifier", Hidden("sequence_summary.summary")),
        Output("classifier"),
        Output("qa_outputs"),
    ),
    embedding_map="embeddings_project",
)


_MPNET = replace(
    _BERT,
    parts=(
        Attention(
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "attention.LayerNorm",
            position_table="{base}.encoder.relative_attention_bias",
        ),
        *_BERT.parts[1:],
    ),
    embeddings=_TEXT,
    heads_agree=True,
)


_DEBERTA_V2 = replace(
    _BERT,
    parts=(
        Attention(
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.output.dense",
            "attention.output.LayerNorm",
            position_query="attention.self.pos_query_proj",
            position_key="attention.self.pos_key_proj",
        ),
        *_BERT.parts[1:],
    ),
    outputs=(
        Output("cls.predictions.decoder", Hidden(_MLM + "dense", _MLM + "LayerNorm", True)),
        Output(
            None,
            Hidden("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", True),
            "lm_predictions.lm_head.bias",
        ),
        Output("classifier", Hidden("pooler.dense")),
        Output("classifier"),
        Output("qa_outputs"),
    ),
    position_rows="encoder.rel_embeddings",
    position_norm="encoder.LayerNorm",
    refused={
        "encoder.conv": "its activation acts on single channels of the stream, which no rotation commutes with",
        "embeddings.embed_proj": "it has embeddings of another width than its stream, with a norm after their map",
    },
)


_MODERNBERT = Family(
    blocks="layers",
    parts=(
        Attention(
            Part("attn.Wqkv", 0, 3),
            Part("attn.Wqkv", 1, 3),
            Part("attn.Wqkv", 2, 3),
            "attn.Wo",
            "attn_norm",
            rotary=True,
        ),
        FeedForward((Part("mlp.Wi", 0, 2), Part("mlp.Wi", 1, 2)), "mlp.Wo", "mlp_norm"),
    ),
    embeddings=("embeddings.tok_embeddings",),
    norm_position="before",
    embedding_norm="embeddings.norm",
    final_norm="final_norm",
    outputs=(
        Output("decoder", Hidden("head.dense", "head.norm", True)),
        Output("classifier", Hidden("head.dense", "head.norm")),
    ),
)


_BASE = ModelSizes(12, 768, 12, 3072)
_LLAMA_1B = ModelSizes(16, 2048, 32, 8192)
_GROUPED = ConfigFields(key_value_heads="num_key_value_heads")

FAMILIES: Mapping[str, ModelFamily] = {
    "bert": ModelFamily(_BERT, usual_sizes=_BASE),
    "roberta": ModelFamily(_BERT, usual_sizes=_BASE),
    "xlm-roberta": ModelFamily(_BERT, usual_sizes=_BASE),
    "distilbert": ModelFamily(
        _DISTILBERT, ConfigFields("n_layers", "dim", "n_heads", "hidden_dim"), ModelSizes(6, 768, 12, 3072)
    ),
    "mobilebert": ModelFamily(
        _MOBILEBERT,
        ConfigFields(
            attention_width=_mobilebert_attention_width,
            derived={"true_hidden_size": lambda config: getattr(config, _mobilebert_attention_width(config))},
            constraints=("{hidden_size} >= {embedding_size}",),  # the difference belongs to its prediction head alone
        ),
        space=SearchSpace(
            {
                "hidden_size": [128, 246, 384, 512],
                "intra_bottleneck_size": [64, 96, 128, 160],
                "num_attention_heads": [1, 2, 4, 8],
                "intermediate_size": [384, 512, 640],
                "num_feedforward_networks": [2, 4, 6],
            },
            constraints=["intra_bottleneck_size % num_attention_heads == 0"],
        ),
    ),
    "gpt2": ModelFamily(_GPT2, ConfigFields("n_layer", "n_embd", "n_head", "n_inner"), ModelSizes(12, 768, 12, None)),
    "vit": ModelFamily(_VIT, usual_sizes=_BASE),
    "llama": ModelFamily(_LLAMA, _GROUPED, _LLAMA_1B),
    "mistral": ModelFamily(_LLAMA, _GROUPED, _LLAMA_1B),
    "qwen2": ModelFamily(_LLAMA, _GROUPED, _LLAMA_1B),
    "qwen3": ModelFamily(_LLAMA, _GROUPED, _LLAMA_1B),
    "t5": ModelFamily(_T5),
    "electra": ModelFamily(_ELECTRA, usual_sizes=_BASE),
    "mpnet": ModelFamily(_MPNET, usual_sizes=_BASE),
    "deberta-v2": ModelFamily(
        _DEBERTA_V2, ConfigFields(derived={"pooler_hidden_size": lambda config: config.hidden_size}), _BASE
    ),
    "modernbert": ModelFamily(_MODERNBERT, usual_sizes=ModelSizes(22, 768, 12, 1152)),
    "opt": ModelFamily(
        _OPT,
        ConfigFields(feed_forward="ffn_dim", derived={"word_embed_proj_dim": lambda config: config.hidden_size}),
        ModelSizes(12, 768, 12, 3072),
    ),
    "phi3": ModelFamily(_PHI3),
    "gemma": ModelFamily(_GEMMA),
    "gpt_neox": ModelFamily(_GPT_NEOX),
    "dinov2": ModelFamily(_DINOV2),
}
"""By `config.model_type`."""


def family_of(model: nn.Module, family: WeightTable | None = None) -> tuple[str, nn.Module, WeightTable] | None:
    """The base model inside a model, its path, and its family.

    Args:
        model: the base model itself, or any model around it.
        family: the table to use; by default that of the model's transformers configuration.

    Returns:
        None if no part of the model is of a known family.
    """
    for path, module in model.named_modules():
        kind = getattr(getattr(module, "config", None), "model_type", None)
        known = FAMILIES.get(str(kind))
        table = family or (known.weights if known is not None else None)
        if table is not None and _has_blocks(module, table):
            return path, module, table
    return None


def _has_blocks(module: nn.Module, family: WeightTable) -> bool:
    # A wrapper may pass attributes of the model inside on (PEFT), under paths that are not its own.
    return any(name == family.blocks for name, _ in module.named_modules()) and family.depth(module) > 0


def require_family(model: nn.Module, family: WeightTable | None, owner: str) -> tuple[str, nn.Module, WeightTable]:
    """As `family_of`.

    Raises:
        ConfigurationError: the model is of no known family.
    """
    found = family_of(model, family)
    if found is None:
        raise ConfigurationError(
            f"init='teacher' needs to know which weights of the {owner} read and write its residual stream; it knows "
            f"the families {', '.join(FAMILIES)}, but {type(model).__name__} holds none of them"
            + (" (its blocks are not at the path in the given table)" if family is not None else "")
            + "; pass a table (autodistill.Family), or leave init out."
        )
    return found
