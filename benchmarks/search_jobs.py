"""The searches of `search_cost.py`: a teacher, real data, and the search that is watched."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from common import in_turns
from search_watch import SearchWatch, padding_share, peak_memory_mib
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
from autodistill.cli.setup import SearchSetup
from autodistill.cli.template import configuration_text
from autodistill.config.command_line import CommandConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.data_stream import DataStream
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.integrations.huggingface.trainer import AutoDistillationTrainer
from autodistill.training import TrainingContext

WITH_TOP_K = "top_k" in RegularDistillationConfig.model_fields


@dataclass(frozen=True)
class Options:
    """How a job is run.

    Attributes:
        quick: a small version.
        trials: of the sentence encoders' search; None for the template's.
        minutes: after which that search is interrupted.
        profile: sample the stack of the main thread of that search.
        device: of the models.
        directory: for the files of a job.
    """

    quick: bool = False
    trials: int | None = None
    minutes: float | None = None
    profile: bool = False
    device: str = "cpu"
    directory: Path = Path()

    def of(self, usual: int, quick: int) -> int:
        """One of two sizes."""
        return quick if self.quick else usual


# --- sentence embeddings, with the command line's template ---


def sentence_setup(options: Options, **auto_distillation: Any) -> SearchSetup:
    """The search that `autodistill init sentence-embedding` describes, for MiniLM and real paragraphs."""
    data = options.directory / "texts.jsonl"
    texts = [text for _, text in paragraphs(options.of(6000, 120))]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    file = options.directory / "autodistill.yaml"
    template = configuration_text("sentence-embedding", file=file, teacher=str(minilm_directory()), train=str(data))
    settings = yaml.safe_load(template) | {"device": options.device}
    if options.quick:
        settings["data"] |= {"max_length": 32, "batch_size": 8}
    for section, changes in auto_distillation.items():
        settings["auto_distillation"][section] |= changes
    return SearchSetup(CommandConfig.load(settings))


def sentence_embedding(options: Options) -> dict[str, Any]:
    """The search with the settings of the template: 20 trials of 200 flash steps and 1,000 regular steps."""
    shorter = {"flash_distillation": {"train_steps": 6}, "regular_distillation": {"train_steps": 20}}
    setup = sentence_setup(options, **(shorter if options.quick else {}))
    teacher = setup.models.teacher
    search_dir = options.directory / "search"
    agent = setup.search(search_dir, show_progress_bar=False)
    watch = SearchWatch(teacher, search_dir, profile=options.profile)
    agent.callbacks.append(watch.trial_ended)
    with watch.running(options.minutes):
        agent.search_loop(n_trials=options.trials or (2 if options.quick else None))
    stream = DataStream(setup.batches.training, agent.config.seed)
    return watch.results(len(setup.batches.training.dataset)) | {"padding": padding_share(stream.epoch(0))}


def trial(options: Options) -> dict[str, Any]:
    """CPU time of training one student, with the teacher's cache empty, warm, and with outputs that cost nothing."""
    flash, regular = options.of(20, 4), options.of(100, 12)
    steps = {"flash_distillation": {"train_steps": flash}, "regular_distillation": {"train_steps": regular}}
    setup = sentence_setup(options, **steps)
    agent = setup.search(options.directory / "search", show_progress_bar=False)
    training = agent.make_training()
    architecture = {"num_hidden_layers": 4, "hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}
    outputs = KnownOutputs()

    def prepared() -> Any:
        torch.manual_seed(0)
        student = setup.models.build(architecture).to(agent.device)
        folder = tempfile.mkdtemp(dir=options.directory)
        return lambda: training.train(student, TrainingContext(seed=0, checkpoint_directory=Path(folder)))

    def with_cache(replacement: Any) -> Any:
        def prepare() -> Any:
            run = prepared()

            def patched() -> None:
                usual, TeacherCache.features = TeacherCache.features, replacement
                try:
                    run()
                finally:
                    TeacherCache.features = usual

            return patched

        return prepare

    cold = in_turns({"cold": with_cache(outputs.recording(TeacherCache.features))}, 1)
    timings = cold | in_turns({"warm": prepared, "free": with_cache(outputs.known)}, options.of(2, 1))
    free = timings["free"].cpu_median
    return {
        "architecture": architecture,
        "flash_steps": flash,
        "regular_steps": regular,
        "cold_to_free": timings["cold"].cpu_median / free,
        "warm_to_free": timings["warm"].cpu_median / free,
        "peak_memory_mib": peak_memory_mib(),
        "timings": {name: timing.to_json() for name, timing in timings.items()},
    }


class KnownOutputs:
    """The teacher's outputs for any batch of the same shapes, from memory: they cost no time, and may be another's."""

    def __init__(self) -> None:
        self._features: dict[Any, torch.Tensor] = {}

    def recording(self, features: Any) -> Any:
        """A method `TeacherCache.features` that records what it returns."""

        def recorded(cache: Any, batch: Any, taps: Any, *arguments: Any, **options: Any) -> Any:
            found = features(cache, batch, taps, *arguments, **options)
            for tap, feature in found.items():
                self._features.setdefault((tap, _shapes(batch)), feature)
            return found

        return recorded

    @property
    def known(self) -> Any:
        """A method `TeacherCache.features` that returns what was recorded for the shapes of the batch."""
        return lambda cache, batch, taps, *_, **__: {tap: self._features[tap, _shapes(batch)] for tap in taps}


def _shapes(batch: Any) -> Any:
    content = batch.content
    tensors = content.values() if isinstance(content, Mapping) else content
    return tuple(tensor.shape for tensor in tensors)


# --- other searches ---


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
    tokenizer, rows = encoded_paragraphs(options.of(192, 48), max_length=48)
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


# --- the loop ---


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
