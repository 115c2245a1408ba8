"""Smaller searches: classifiers of text and of images, language models, and trials that take no time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from search_watch import Options, SearchWatch, padding_share
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from text import minilm_directory, paragraphs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from autodistill import AutoDistillation
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.data_stream import DataStream
from autodistill.integrations.huggingface.trainer import AutoDistillationTrainer

WITH_TOP_K = "top_k" in RegularDistillationConfig.model_fields


@dataclass(frozen=True)
class SmallSearch:
    """The settings that the smaller searches share."""

    space: Mapping[str, list[int]]
    flash_steps: int
    regular_steps: int | None
    trials: int

    def config(self, **regular: Any) -> dict[str, Any]:
        """The configuration of a random search for a constant score."""
        steps = {} if self.regular_steps is None else {"train_steps": self.regular_steps}
        return {
            "search": {
                "search_space": dict(self.space),
                "search_algorithm": "Random",
                "metrics": ["parameters"],
                "max_trials": self.trials,
                "seed": 0,
            },
            "flash_distillation": {"train_steps": self.flash_steps},
            "regular_distillation": steps | regular,
        }


def text_classification(options: Options) -> dict[str, Any]:
    """A `Trainer` that distils a classifier of paragraphs by library: shuffled, dynamic padding, three epochs."""
    tokenizer, rows = encoded_paragraphs(options.of(480, 96), max_length=64)
    names = sorted({name for name, _ in rows})
    data = [tokens | {"labels": names.index(name)} for name, tokens in rows]
    teacher = paragraph_classifier(tokenizer, data[:192], len(names)).to(options.device)
    small = BertConfig(
        vocab_size=len(tokenizer),
        num_labels=len(names),
        hidden_size=96,
        num_attention_heads=3,
        intermediate_size=192,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    arguments = TrainingArguments(
        str(options.directory),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        report_to=[],
        disable_tqdm=True,
        use_cpu=options.device == "cpu",
        save_strategy="no",
        seed=0,
    )
    trainer = AutoDistillationTrainer(
        BertForSequenceClassification(small),
        arguments,
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    space = {"num_hidden_layers": [1, 2, 3], "hidden_size": [48, 96]}
    search = SmallSearch(space, options.of(20, 4), None, 2)
    trainer.autodistillation_config = search.config()
    search_dir = options.directory / "search"
    watch = SearchWatch(teacher, search_dir)
    with watch.running(options.minutes):
        trainer.autodistillation(teacher, search_dir=search_dir, init=None, callbacks=[watch.trial_ended])
    return watch.results(len(data)) | {"padding": padding_share(DataStream(trainer.get_train_dataloader(), 0).epoch(0))}


def encoded_paragraphs(count: int, max_length: int) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    """MiniLM's tokenizer, and paragraphs as tokens with the library that each comes from."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
    rows = paragraphs(count)
    options = {"truncation": True, "max_length": max_length, "return_token_type_ids": False}
    return tokenizer, [(name, dict(tokenizer(text, **options))) for name, text in rows]


def paragraph_classifier(tokenizer: Any, data: list[dict[str, Any]], labels: int) -> nn.Module:
    """MiniLM with a linear classifier that was fitted to some paragraphs."""
    teacher = BertForSequenceClassification.from_pretrained(minilm_directory(), num_labels=labels).eval()
    batches = DataLoader(data, 32, collate_fn=DataCollatorWithPadding(tokenizer))
    with torch.no_grad():
        pooled = [teacher.bert(batch["input_ids"], batch["attention_mask"]).pooler_output for batch in batches]
        fitted = LogisticRegression(max_iter=1000).fit(torch.cat(pooled).numpy(), [row["labels"] for row in data])
        for number, weights, bias in zip(fitted.classes_, fitted.coef_, fitted.intercept_, strict=True):
            teacher.classifier.weight[number] = torch.tensor(weights)
            teacher.classifier.bias[number] = float(bias)
    return teacher


class NoisyDataset(TensorDataset):
    """Images with fresh random noise each time they are read."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.randn_like(image), label


def images(options: Options) -> dict[str, Any]:
    """A vision transformer and scikit-learn's digits, shuffled, three epochs."""
    return _images(options, TensorDataset)


def augmented_images(options: Options) -> dict[str, Any]:
    """The same with random noise, different whenever an image is read."""
    return _images(options, NoisyDataset)


def _images(options: Options, kind: type[TensorDataset]) -> dict[str, Any]:
    digits = load_digits()
    count = options.of(1600, 320)
    pixels = torch.tensor(digits.images[:count], dtype=torch.float32)[:, None] / 16
    data = kind(pixels, torch.tensor(digits.target[:count]))

    def vit(layers: int, width: int) -> nn.Module:
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 16,
            intermediate_size=2 * width,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return Pixels(ViTForImageClassification(config))

    torch.manual_seed(0)
    teacher = vit(4, 128)
    loader = DataLoader(data, 32, shuffle=True)
    search = SmallSearch({"layers": [1, 2, 3], "width": [32, 64]}, options.of(20, 4), 3 * len(loader), 3)
    return watched(options, teacher, loader, lambda architecture: vit(**architecture), search)


class Pixels(nn.Module):
    """A model of images as the only positional argument, which returns logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        logits: torch.Tensor = self.model(pixel_values=images).logits
        return logits


def causal_lm(options: Options) -> dict[str, Any]:
    """A GPT-2 with random weights and MiniLM's vocabulary, on paragraphs, three epochs; complete logits."""
    return _causal_lm(options)


def causal_lm_top_k(options: Options) -> dict[str, Any]:
    """The same with the largest 64 logits of each position, where the library has this setting."""
    return _causal_lm(options, top_k=64) if WITH_TOP_K else {}


def _causal_lm(options: Options, **regular: Any) -> dict[str, Any]:
    tokenizer, rows = encoded_paragraphs(options.of(256, 48), max_length=48)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    loader = DataLoader([tokens for _, tokens in rows], 8, shuffle=True, collate_fn=lambda rows: dict(collator(rows)))

    def gpt2(layers: int, width: int) -> nn.Module:
        sizes = {"n_layer": layers, "n_embd": width, "n_head": width // 32, "n_positions": 64}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), bos_token_id=101, eos_token_id=102, **sizes, **dropout)
        )

    torch.manual_seed(0)
    teacher = gpt2(4, 128)
    search = SmallSearch({"layers": [1, 2, 3], "width": [32, 64]}, options.of(12, 3), 3 * len(loader), 2)
    return watched(options, teacher, loader, lambda architecture: gpt2(**architecture), search, **regular)


def watched(
    options: Options, teacher: nn.Module, loader: DataLoader[Any], build: Any, search: SmallSearch, **regular: Any
) -> dict[str, Any]:
    """Run a search with a data loader, and return its costs."""
    search_dir = options.directory / "search"
    watch = SearchWatch(teacher, search_dir)
    agent = AutoDistillation(
        build,
        search.config(**regular),
        teacher_model=teacher,
        train_dataloader=loader,
        eval_func=lambda student: {},
        search_dir=search_dir,
        device=options.device,
        callbacks=[watch.trial_ended],
        show_progress_bar=False,
    )
    with watch.running(options.minutes):
        agent.search_loop()
    padding = padding_share(DataStream(loader, 0).epoch(0))
    return watch.results(len(loader.dataset)) | {"regular_steps": search.regular_steps, "padding": padding}


def loop(options: Options) -> dict[str, Any]:
    """The time that the search itself takes per trial, when training and evaluation take none."""
    count = options.of(1000, 100)
    part = count // 10
    ends = [(time.perf_counter(), time.process_time())]
    space = {"width": list(range(1, 41)), "depth": list(range(1, 41))}
    search = {"search_space": space, "search_algorithm": "Random", "metrics": ["score"], "max_trials": count, "seed": 0}
    AutoDistillation(
        lambda architecture: nn.Linear(architecture["width"], 1),
        {"search": search},
        train_func=lambda student: student,
        eval_func=lambda student: {"score": 0.0},
        search_dir=options.directory / "search",
        callbacks=[lambda search, trial: ends.append((time.perf_counter(), time.process_time()))],
        keep="none",
        device="cpu",
        show_progress_bar=False,
    ).search_loop()

    def milliseconds(clock: int, first: int, last: int) -> float:
        return 1000 * (ends[last][clock] - ends[first][clock]) / (last - first)

    return {
        "trials": count,
        "part": part,
        "first_wall_ms": milliseconds(0, 0, part),
        "last_wall_ms": milliseconds(0, count - part, count),
        "first_cpu_ms": milliseconds(1, 0, part),
        "last_cpu_ms": milliseconds(1, count - part, count),
    }
