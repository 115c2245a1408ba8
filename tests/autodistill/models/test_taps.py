"""Taps select a part of a layer's output; recorders add their hooks and always remove them."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from small_models import Deep
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.errors import ConfigurationError, LayerNotFoundError
from autodistill.models.taps import AUTO, Tap, TapRecorder


def first(output):
    return output[0]


# --- taps ------------------------------------------------------------------------------------------------------------

A, B = torch.zeros(2), torch.ones(3)


@pytest.mark.parametrize(
    ("process", "output", "expected"),
    [
        ("", A, A),
        ("0", (A, B), A),
        ("1", [A, B], B),
        ("hidden", {"hidden": B}, B),
        ("hidden", SimpleNamespace(hidden=B), B),
        (first, (A, B), A),
        (AUTO, A, A),
        (AUTO, (A, B), A),
        (AUTO, {"loss": A, "logits": B}, B),
        (AUTO, OrderedDict(loss=A, last_hidden_state=B), B),
    ],
)
def test_output_process_selects_its_part(process, output, expected) -> None:
    assert Tap("block", process).extract(output) is expected


@pytest.mark.parametrize(
    ("process", "output", "returned"),
    [
        ("2", (A, B), "a tuple of 2"),
        ("0", A, r"a tensor of shape \(2,\)"),
        ("logits", {"hidden": A}, "a dict with the keys hidden"),
        ("logits", SimpleNamespace(), "a SimpleNamespace"),
        ("-1", (A, B), "a tuple of 2"),
    ],
)
def test_part_that_does_not_exist_is_refused_naming_the_output(process: str, output, returned: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{process!r} must select a part .*'block'.*but it returns {returned}"
    ):
        Tap("block", process).extract(output)


def test_output_that_is_no_tensor_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        ConfigurationError, match=r"must return a tensor, but 'block' returns a tuple of 2; select a part"
    ):
        Tap("block").extract((A, B))


def test_attention_that_is_not_computed_names_the_setting_that_computes_it() -> None:
    config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    tap = Tap("encoder.layer.0.attention.self", "1")
    ids = torch.ones(1, 4, dtype=torch.long)
    config._attn_implementation = "sdpa"
    model = BertModel(config)
    with pytest.raises(ConfigurationError, match='attn_implementation="eager"'), TapRecorder(model, [tap]) as recorder:
        recorder.run(lambda: model(ids))
    config._attn_implementation = "eager"
    model = BertModel(config)
    with TapRecorder(model, [tap]) as recorder:
        assert recorder.run(lambda: model(ids))[tap].shape == (1, 2, 4, 4)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_recorder_returns_features_with_their_graph_and_removes_its_hooks() -> None:
    model, taps = Deep(3), [Tap("layer.0"), Tap("layer.2"), Tap("")]
    x = torch.randn(5, 4)
    with TapRecorder(model, taps) as recorder:
        assert hooks(model) == 3
        features = recorder.run(lambda: model(x))
    assert hooks(model) == 0
    assert torch.equal(features[taps[0]], model.layer[0](x))
    assert torch.equal(features[taps[1]], model(x))
    assert torch.equal(features[taps[2]], model(x))
    assert features[taps[0]].requires_grad


def test_two_parts_of_one_module_share_a_hook() -> None:
    model = nn.Sequential(nn.LSTM(4, 4))
    taps = [Tap("0", "0"), Tap("0", lambda output: output[1][0])]
    with TapRecorder(model, [*taps, *taps]) as recorder:
        assert hooks(model) == 1
        features = recorder.run(lambda: model(torch.zeros(3, 2, 4)))
    assert [features[tap].shape for tap in taps] == [(3, 2, 4), (1, 2, 4)]


def test_hooks_are_gone_after_an_exception_in_the_model_or_in_a_tap() -> None:
    model = Deep(3)
    for tap, x in ((Tap("layer.2"), torch.zeros(1, 9)), (Tap("layer.1", "0"), torch.zeros(1, 4))):
        with pytest.raises((RuntimeError, ConfigurationError)), TapRecorder(model, [tap]) as recorder:
            recorder.run(lambda x=x: model(x))
        assert hooks(model) == 0


def test_recorder_can_be_used_again_and_counts_calls_of_each_forward() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(4, 4)

        def forward(self, x):
            return self.block(self.block(x))

    model, x = Twice(), torch.randn(2, 4)
    recorder = TapRecorder(model, [Tap("block")])
    for _ in range(2):
        with recorder:
            features = recorder.run(lambda: model(x))
        assert recorder.calls == {"block": 2}
        assert torch.equal(features[Tap("block")], model(x))  # the last call counts
        assert hooks(model) == 0


def test_feature_that_is_changed_in_place_later_is_recorded_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.randn(5, 4)
    with TapRecorder(model, [Tap("0"), Tap("1")]) as recorder:
        features = recorder.run(lambda: model(x))
    assert torch.equal(features[Tap("0")], model[0](x))
    assert bool((features[Tap("0")] < 0).any())


def test_stop_ends_the_forward_after_the_last_tap() -> None:
    model, ran, finished = Deep(5), [], []
    for index, layer in enumerate(model.layer):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    with TapRecorder(model, [Tap("layer.2"), Tap("layer.0")], stop=True) as recorder:
        features = recorder.run(lambda: finished.append(model(torch.ones(1, 4))))
    assert ran == [0, 1, 2]
    assert finished == []
    assert list(features) == [Tap("layer.0"), Tap("layer.2")]


def test_layer_that_never_runs_is_refused_by_name() -> None:
    model = Deep(2)
    model.unused = nn.Linear(4, 4)
    with (
        pytest.raises(ConfigurationError, match="must run in the forward pass, but the student never calls 'unused'"),
        TapRecorder(model, [Tap("unused"), Tap("layer.0")], owner="student") as recorder,
    ):
        recorder.run(lambda: model(torch.ones(1, 4)))


def test_recorder_of_a_missing_layer_is_refused_before_it_runs() -> None:
    with pytest.raises(LayerNotFoundError, match="the teacher"):
        TapRecorder(Deep(2), [Tap("layer.2")], owner="teacher")
