"""Sentence embeddings: a transformers model, the pooling of its last hidden states, and a projection.

The files are those of sentence-transformers: the model and its tokenizer in the folder itself, `1_Pooling`, and, if
any, `2_Dense` and `3_Normalize`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from autodistill.errors import ConfigurationError
from autodistill.json_files import read_json, write_json

Pooling = Literal["mean", "cls"]

_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_MODULES = "modules.json"
_POOLING, _DENSE, _NORMALIZE = "1_Pooling", "2_Dense", "3_Normalize"


class SentenceEncoder(nn.Module):
    """Texts to embeddings (N, C): the last hidden states, pooled over the tokens, projected, normalised.

    Args:
        model: a transformers model that returns `last_hidden_state`; its pooler is not used, and is removed.
        pooling: the mean over all tokens that are not padding, or the first token.
        projection: the projection to the width of the embeddings; None to keep the width of the model.
        normalize: whether embeddings are scaled to length one.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> encoder = SentenceEncoder(BertModel(BertConfig(**sizes)), projection=nn.Linear(8, 16), normalize=True)
        >>> embeddings = encoder(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long))
        >>> embeddings.shape, round(embeddings.norm().item(), 3)
        (torch.Size([1, 16]), 1.0)
    """

    def __init__(
        self,
        model: Any,
        *,
        pooling: Pooling = "mean",
        projection: nn.Linear | None = None,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        self.model = model
        self.projection = projection
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        """The embeddings (N, C) of N texts."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **others).last_hidden_state  # (N, L, C)
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return self.projection.out_features if self.projection is not None else int(self.model.config.hidden_size)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the encoder in the format that sentence-transformers and `AutoModel.from_pretrained` read."""
        directory = Path(directory)
        self.model.save_pretrained(directory)
        width = self.model.config.hidden_size
        parts = [("", "Transformer"), (_POOLING, "Pooling")]
        modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
        flags = {flag: mode == self.pooling for mode, flag in modes.items()}
        _write_part(directory / _POOLING, {"word_embedding_dimension": width, **flags})
        if self.projection is not None:
            parts.append((_DENSE, "Dense"))
            _write_part(
                directory / _DENSE,
                {
                    "in_features": width,
                    "out_features": self.projection.out_features,
                    "bias": self.projection.bias is not None,
                    "activation_function": "torch.nn.modules.linear.Identity",
                },
            )
            weights = {f"linear.{name}": value.contiguous() for name, value in self.projection.state_dict().items()}
            save_file(weights, directory / _DENSE / "model.safetensors")
        if self.normalize:
            parts.append((_NORMALIZE, "Normalize"))
            (directory / _NORMALIZE).mkdir()
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(parts)
        ]
        write_json(directory / _MODULES, modules)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Load the encoder from a folder or the hub; a model without `modules.json` is pooled by the mean.

        Raises:
            ConfigurationError: it has modules other than those above, or another pooling or activation.
        """
        directory = Path(source)
        if not directory.is_dir():
            directory = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
        modules = read_json(directory / _MODULES) if (directory / _MODULES).exists() else []
        paths = {module["type"].rsplit(".", 1)[-1]: directory / module["path"] for module in modules}
        order = [kind for kind in _KINDS if kind in paths]
        if list(paths) != order or len(paths) != len(modules):
            raise ConfigurationError(
                f"a sentence encoder must consist of {', '.join(_KINDS)}, in this order, but {source} has "
                f"{', '.join(module['type'] for module in modules)}."
            )
        return cls(
            AutoModel.from_pretrained(paths.get("Transformer", directory), use_safetensors=True),
            pooling=_read_pooling(paths["Pooling"]) if "Pooling" in paths else "mean",
            projection=_read_projection(paths["Dense"]) if "Dense" in paths else None,
            normalize="Normalize" in paths,
        )


def _write_part(directory: Path, config: dict[str, Any]) -> None:
    directory.mkdir()
    write_json(directory / "config.json", config)


def _read_pooling(directory: Path) -> Pooling:
    config = read_json(directory / "config.json")
    prefix = "pooling_mode_"
    modes = {key.removeprefix(prefix).split("_token")[0] for key, on in config.items() if key.startswith(prefix) and on}
    modes |= {config["pooling_mode"]} if "pooling_mode" in config else set()
    if modes == {"mean"}:
        return "mean"
    if modes == {"cls"}:
        return "cls"
    raise ConfigurationError(
        f"the pooling of a sentence encoder must be 'mean' or 'cls', but {directory} has {sorted(modes)}."
    )


def _read_projection(directory: Path) -> nn.Linear:
    config = read_json(directory / "config.json")
    activation = config.get("activation_function", "torch.nn.modules.linear.Identity")
    if not activation.endswith("Identity"):
        raise ConfigurationError(f"a sentence encoder must have a linear projection, but {directory} has {activation}.")
    projection = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    weights = load_file(directory / "model.safetensors")
    projection.load_state_dict({name.removeprefix("linear."): value for name, value in weights.items()})
    return projection
