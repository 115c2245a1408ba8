"""Layers by name: mappings in every form, taps, hooks that always go away, repeated blocks."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.errors import ConfigurationError, LayerNotFoundError
from autodistill.models.blocks import repeated_blocks
from autodistill.models.layer_mappings import LayerMapping, automatic_mapping, parse_mapping
from autodistill.models.module_paths import find_module, is_inside
from autodistill.models.taps import AUTO, Tap, TapRecorder


def first(output):
    return output[0]


# --- mappings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "student", "teacher"),
    [
        (("s", "t"), Tap("s"), Tap("t")),
        (["s", "t"], Tap("s"), Tap("t")),
        (("s", "1", "t", "1"), Tap("s", "1"), Tap("t", "1")),
        (["s", 1, "t", 0], Tap("s", "1"), Tap("t", "0")),
        (("s", "", "t", "logits"), Tap("s"), Tap("t", "logits")),
        (("s", first, "t", "0"), Tap("s", first), Tap("t", "0")),
        ([("s", "1"), ("t", "1")], Tap("s", "1"), Tap("t", "1")),
        ([["s", 1], ["t", 2]], Tap("s", "1"), Tap("t", "2")),
        ([("s", first), ("t",)], Tap("s", first), Tap("t")),
        ([("s",), ("t",)], Tap("s"), Tap("t")),
        ([("s",)], Tap("s"), Tap("s")),
        (("s",), Tap("s"), Tap("s")),
        (LayerMapping(Tap("s"), Tap("t", "0")), Tap("s"), Tap("t", "0")),
    ],
)
def test_every_accepted_form_is_normalised(spec, student: Tap, teacher: Tap) -> None:
    assert parse_mapping(spec) == LayerMapping(student, teacher)


@pytest.mark.parametrize(
    "spec",
    [
        "s",
        (),
        (1, 2),
        ("s", 1),
        ("s", "t", "u"),
        ("s", "1", "t", "1", "x"),
        [("s", "1", "x"), ("t",)],
        [[]],
        None,
        3,
        {"s": "t"},
        [("s", "1"), "t"],
        [("s", "1")],
        [("s",), ("t",), ("u",)],
    ],
)
def test_every_other_form_is_refused_showing_it(spec) -> None:
    with pytest.raises(ConfigurationError, match="a layer mapping is") as caught:
        parse_mapping(spec)
    assert f"but got {spec!r}." in str(caught.value)


@pytest.mark.parametrize("spec", [("s", None, "t", "1"), [("s", 1.5), ("t", "1")], ("s", "1", "t", True)])
def test_output_process_of_another_kind_is_refused(spec) -> None:
    with pytest.raises(ConfigurationError, match="an output process is '', a numeric string, a key or a callable"):
        parse_mapping(spec)


# --- paths -----------------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Blocks whose names begin alike: layer.1 and layer.10."""

    def __init__(self, depth: int = 12) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return x


def test_path_is_found_by_whole_components() -> None:
    model = Deep()
    assert find_module(model, "layer.1") is model.layer[1]
    assert find_module(model, "layer.10") is model.layer[10]
    assert find_module(model, "") is model
    with pytest.raises(LayerNotFoundError):
        find_module(Deep(2), "layer.10")
    with pytest.raises(LayerNotFoundError):
        find_module(model, "laye")


def test_module_with_two_names_is_found_by_both() -> None:
    model = Deep(2)
    model.alias = model.layer[1]
    assert find_module(model, "alias") is find_module(model, "layer.1")


@pytest.mark.parametrize(
    ("path", "block", "inside"),
    [
        ("layer.1", "layer.1", True),
        ("layer.1.output", "layer.1", True),
        ("layer.10", "layer.1", False),
        ("layer.1", "layer.10", False),
        ("layer", "layer.1", False),
        ("anything", "", True),
        ("", "layer.1", False),
    ],
)
def test_inside_means_below_on_whole_components(path: str, block: str, inside: bool) -> None:
    assert is_inside(path, block) is inside


def test_missing_path_names_the_nearest_ones_and_the_owner() -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        find_module(Deep(), "layers.10", "student")
    assert str(caught.value).startswith("the student (Deep) has no layer 'layers.10'; did you mean 'layer.10' or ")
    assert "'layer.1'" in str(caught.value)


def test_path_unlike_any_other_names_what_there_is() -> None:
    with pytest.raises(LayerNotFoundError, match=r"has no layer 'zzzz'; its layers begin with 'layer'\."):
        find_module(Deep(), "zzzz")
    with pytest.raises(LayerNotFoundError, match="it has no submodules"):
        find_module(nn.Linear(1, 1), "encoder")


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
def test_part_that_is_not_there_is_refused_saying_what_is(process: str, output, returned: str) -> None:
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


def test_recorder_gives_the_features_with_their_graph_and_takes_its_hooks_away() -> None:
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


def test_feature_that_the_model_changes_in_place_later_is_kept_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.randn(5, 4)
    with TapRecorder(model, [Tap("0"), Tap("1")]) as recorder:
        features = recorder.run(lambda: model(x))
    assert torch.equal(features[Tap("0")], model[0](x))
    assert bool((features[Tap("0")] < 0).any())


def test_stop_ends_the_forward_once_every_tap_was_seen() -> None:
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


def test_recorder_of_a_missing_layer_is_refused_at_once() -> None:
    with pytest.raises(LayerNotFoundError, match="the teacher"):
        TapRecorder(Deep(2), [Tap("layer.2")], owner="teacher")


# --- repeated blocks and the automatic mapping -----------------------------------------------------------------------


def test_blocks_are_the_like_siblings_with_the_most_parameters() -> None:
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    model.encoder = nn.Module()
    model.encoder.layers = nn.ModuleList(nn.Linear(50, 50) for _ in range(3))
    assert repeated_blocks(model) == ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]


def test_one_block_is_enough_in_a_list_and_not_in_a_sequential() -> None:
    assert repeated_blocks(Deep(1)) == ["layer.0"]
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]
    with pytest.raises(
        ConfigurationError, match="needs a ModuleList or Sequential of similar blocks, but Sequential has"
    ):
        repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


@pytest.mark.parametrize("students", range(1, 13))
@pytest.mark.parametrize("teachers", [1, 4, 6, 12, 24])
def test_automatic_mapping_follows_the_formula_and_ends_on_the_last_block(students: int, teachers: int) -> None:
    mapping = automatic_mapping(students, teachers)
    assert mapping == [math.ceil((i + 1) * teachers / students) - 1 for i in range(students)]
    assert mapping == sorted(mapping)
    assert mapping[-1] == teachers - 1
    assert mapping[0] >= 0
