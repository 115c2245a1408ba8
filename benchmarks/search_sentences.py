"""Sentence encoders by the command line's template: the cost of a search, and that of training one student."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from common import in_turns
from search_watch import Options, SearchWatch, padding_share, peak_memory_mib
from text import minilm_directory, paragraphs

from autodistill.cli.setup import SearchSetup
from autodistill.cli.template import Choices, configuration_text
from autodistill.config.command_line import CommandConfig
from autodistill.data_stream import DataStream
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.training import TrainingContext

TEXTS = 6000
ARCHITECTURE = {"num_hidden_layers": 4, "hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}


def sentence_setup(options: Options, **auto_distillation: Any) -> SearchSetup:
    """The search that `autodistill init sentence-embedding` describes, for MiniLM and real paragraphs."""
    data = options.directory / "texts.jsonl"
    texts = [text for _, text in paragraphs(options.of(TEXTS, 120))]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    file = options.directory / "autodistill.yaml"
    choices = Choices(teacher=str(minilm_directory()), train=str(data))
    template = configuration_text("sentence-embedding", file, choices)
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
    known = KnownOutputs()

    def in_cache(methods: Mapping[str, Any]) -> Callable[[], Callable[[], None]]:
        def prepare() -> Callable[[], None]:
            torch.manual_seed(0)
            student = setup.models.build(ARCHITECTURE).to(agent.device)
            context = TrainingContext(seed=0, checkpoint_directory=Path(tempfile.mkdtemp(dir=options.directory)))

            def run() -> None:
                with patch.multiple(TeacherCache, **methods):
                    training.train(student, context)

            return run

        return prepare

    methods = {name: getattr(TeacherCache, name) for name in ("features", "outputs") if hasattr(TeacherCache, name)}
    timings = in_turns({"cold": in_cache({name: known.recording(method) for name, method in methods.items()})}, 1)
    variants = {"warm": in_cache(methods), "free": in_cache(dict.fromkeys(methods, known.outputs))}
    timings |= in_turns(variants, options.of(2, 1))
    free = timings["free"].cpu_median
    return {
        "architecture": ARCHITECTURE,
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
        self._outputs: dict[Any, Any] = {}

    def recording(self, method: Any) -> Any:
        """A method of the cache that also records what it returns."""

        def recorded(cache: Any, batch: Any, taps: Any, *arguments: Any, **options: Any) -> Any:
            found = method(cache, batch, taps, *arguments, **options)
            for tap, output in found.items():
                self._outputs.setdefault((tap, _shapes(batch)), output)
            return found

        return recorded

    @property
    def outputs(self) -> Any:
        """A method of the cache that returns what was recorded for the shapes of the batch."""
        return lambda cache, batch, taps, *_, **__: {tap: self._outputs[tap, _shapes(batch)] for tap in taps}


def _shapes(batch: Any) -> Any:
    content = batch.content
    tensors = content.values() if isinstance(content, Mapping) else content
    return tuple(tensor.shape for tensor in tensors)
