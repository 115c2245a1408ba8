"""Students on disk: complete or missing, and equal when they are read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from autodistill.errors import ConfigurationError, SearchDirectoryError, TrialError
from autodistill.frameworks import student_files as students
from autodistill.frameworks.student_files import load_student, reload_problems, save_student
from autodistill.tensors import identical


class Tied(nn.Module):
    """Two layers of one weight, a buffer, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.norm(self.second(self.first(x))))


def bert() -> BertModel:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=10, max_position_embeddings=8, **sizes))


def test_plain_student_is_read_back_to_the_bit_in_eval_mode(tmp_path: Path) -> None:
    student = Tied()
    student(torch.randn(8, 4))  # moves the running statistics
    save_student(student, {"width": 4}, tmp_path / "student")
    fresh = Tied().train()
    loaded = load_student(fresh, tmp_path / "student")
    assert loaded is fresh
    assert not loaded.training
    assert loaded.second.weight is loaded.first.weight
    assert identical(dict(loaded.state_dict()), dict(student.state_dict()))
    x = torch.randn(3, 4)
    assert torch.equal(loaded(x), student.eval()(x))


def test_transformers_student_is_written_as_its_library_does(tmp_path: Path) -> None:
    student = bert()
    save_student(student, {"layers": 1}, tmp_path / "student")
    assert {"config.json", "model.safetensors", "architecture.json"} <= {
        f.name for f in (tmp_path / "student").iterdir()
    }
    loaded = load_student(bert(), tmp_path / "student")
    assert not loaded.training
    assert identical(dict(loaded.state_dict()), dict(student.state_dict()))


def test_architecture_is_beside_the_weights_and_weights_are_safetensors(tmp_path: Path) -> None:
    save_student(nn.Linear(2, 3), {"width": 3, "kind": "linear"}, tmp_path / "student")
    assert json.loads((tmp_path / "student" / "architecture.json").read_text()) == {"width": 3, "kind": "linear"}
    with safe_open(tmp_path / "student" / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["bias", "weight"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["student"]


def test_saving_again_replaces_the_old_student(tmp_path: Path) -> None:
    save_student(bert(), {"a": 1}, tmp_path / "student")
    student = nn.Linear(2, 2)
    save_student(student, {"a": 2}, tmp_path / "student")
    assert {entry.name for entry in (tmp_path / "student").iterdir()} == {"model.safetensors", "architecture.json"}
    assert torch.equal(load_student(nn.Linear(2, 2), tmp_path / "student").weight, student.weight)


def test_failure_while_writing_leaves_the_old_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = nn.Linear(2, 2)
    save_student(old, {"a": 1}, tmp_path / "student")
    with monkeypatch.context() as patch:
        patch.setattr(students, "write_json", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_student(nn.Linear(2, 2), {"a": 2}, tmp_path / "student")
    assert torch.equal(load_student(nn.Linear(2, 2), tmp_path / "student").weight, old.weight)
    save_student(nn.Linear(2, 2), {"a": 3}, tmp_path / "student")  # incomplete files do not disturb the next writing
    assert json.loads((tmp_path / "student" / "architecture.json").read_text()) == {"a": 3}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["student"]


def test_weights_of_another_architecture_are_not_loaded(tmp_path: Path) -> None:
    save_student(nn.Linear(2, 2), {"width": 2}, tmp_path / "student")
    with pytest.raises(ConfigurationError, match=r"'weight' is \(2, 2\), not \(3, 2\)"):
        load_student(nn.Linear(2, 3), tmp_path / "student")


def test_a_student_of_another_precision_is_loaded_in_it(tmp_path: Path) -> None:
    student = nn.Linear(2, 2).double()
    save_student(student, {"width": 2}, tmp_path / "student")
    loaded = load_student(nn.Linear(2, 2), tmp_path / "student")
    assert torch.equal(loaded.weight, student.weight)
    assert loaded.weight.dtype == torch.float64


BERT = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10}
LLAMA = BERT | {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TOKENS = torch.tensor([[1, 5, 6, 2]])

PEFT_WARNS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class OwnHead(BertModel):
    """A pretrained body with a head that its configuration does not describe."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.own = nn.Linear(8, 3)
        self.post_init()

    def forward(self, *arguments, **options):
        return self.own(super().forward(*arguments, **options).last_hidden_state)


class WithState(BertModel):
    """A buffer that is not part of the state dict."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, *arguments, **options):
        return super().forward(*arguments, **options).last_hidden_state * self.scale


def other_activation() -> nn.Module:
    model = BertForSequenceClassification(BertConfig(**BERT))
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.ReLU()
    return model


def fewer_layers() -> nn.Module:
    model = BertForSequenceClassification(BertConfig(**BERT))
    model.bert.encoder.layer = nn.ModuleList([model.bert.encoder.layer[2], model.bert.encoder.layer[0]])
    return model


def another_head() -> nn.Module:
    model = BertForSequenceClassification(BertConfig(**BERT))
    model.classifier = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 5))
    return model


def with_adapters() -> nn.Module:
    settings = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False, modules_to_save=["classifier"])
    return get_peft_model(BertForSequenceClassification(BertConfig(**BERT)), settings)


def compiled_layer() -> nn.Module:
    model = BertModel(BertConfig(**BERT))
    model.encoder.layer[0] = torch.compile(model.encoder.layer[0], backend="eager")
    return model


def mixtral() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**LLAMA, num_local_experts=2))


CHANGED = {
    "replaced activation": (other_activation, "intermediate_act_fn' becomes GELUActivation() instead of ReLU()"),
    "dropped layers": (fewer_layers, "are missing"),
    "another head": (another_head, "missing"),
    "adapters": (with_adapters, "it has adapters"),
    "own class": (lambda: OwnHead(BertConfig(**BERT)), None),
    "buffer outside of the state dict": (lambda: WithState(BertConfig(**BERT)), "'scale' is different"),
    "tied weights": (lambda: BertForMaskedLM(BertConfig(**BERT)), None),
    "rotary embedding": (lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)), None),
    "names that the library converts": (mixtral, None),
    "half of it in bfloat16": (lambda: BertModel(BertConfig(**BERT)), "different"),
    "bfloat16": (lambda: BertModel(BertConfig(**BERT)), None),
    "compiled layer": (compiled_layer, "are different"),
}


def trained(case: str) -> nn.Module:
    torch.manual_seed(1)
    student = CHANGED[case][0]()
    for name, tensor in (*student.named_parameters(), *student.named_buffers()):
        if tensor.is_floating_point() and "inv_freq" not in name:
            tensor.data += 0.25
    if "bfloat16" in case:
        (student if case == "bfloat16" else student.encoder.layer[1:]).to(torch.bfloat16)
    return student.eval()


def outputs(model: nn.Module) -> torch.Tensor:
    if getattr(model, "dtype", torch.float32) == torch.float32 and not hasattr(model, "peft_config"):
        kinds = {parameter.dtype for parameter in model.parameters()}
        if len(kinds) > 1:
            return torch.cat([parameter.flatten().double() for parameter in model.parameters()])
    with torch.no_grad():
        output = model(input_ids=TOKENS)
    return output if isinstance(output, torch.Tensor) else output[0]


@PEFT_WARNS
@pytest.mark.parametrize("case", CHANGED)
def test_loaded_student_is_the_one_that_was_saved_to_the_bit(case: str, tmp_path: Path) -> None:
    student = trained(case)
    save_student(student, {}, tmp_path / "student")
    torch.manual_seed(2)
    fresh = CHANGED[case][0]()
    loaded = load_student(fresh, tmp_path / "student")
    assert loaded is fresh
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(outputs(loaded), outputs(student))
    assert identical(dict(loaded.state_dict()), dict(student.state_dict()))


@PEFT_WARNS
@pytest.mark.parametrize("case", CHANGED)
def test_reloading_by_the_class_alone_is_found_to_change_the_student(case: str, tmp_path: Path) -> None:
    save_student(trained(case), {}, tmp_path / "student")
    found = "; ".join(reload_problems(tmp_path / "student"))
    expected = CHANGED[case][1]
    assert found == "" if expected is None else expected in found


def test_weights_in_several_files_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = bert()
    save = BertModel.save_pretrained
    monkeypatch.setattr(BertModel, "save_pretrained", lambda self, folder: save(self, folder, max_shard_size=500))
    save_student(student, {}, tmp_path / "student")
    assert len(list((tmp_path / "student").glob("model-*.safetensors"))) > 2
    assert identical(dict(load_student(bert(), tmp_path / "student").state_dict()), dict(student.state_dict()))


@pytest.mark.parametrize("case", ["tied weights", "rotary embedding", "names that the library converts", "own class"])
def test_folder_of_an_earlier_version_is_loaded(case: str, tmp_path: Path) -> None:
    student = trained(case)
    student.save_pretrained(tmp_path)  # and nothing else, as earlier versions did
    loaded = load_student(CHANGED[case][0](), tmp_path)
    assert torch.equal(outputs(loaded), outputs(student))


def test_tensors_of_a_pretrained_model_that_differ_are_all_named(tmp_path: Path) -> None:
    save_student(fewer_layers(), {}, tmp_path / "student")
    with pytest.raises(ConfigurationError, match=r"'bert\.encoder\.layer\.2\..*missing.*model_builder with which"):
        load_student(BertForSequenceClassification(BertConfig(**BERT)), tmp_path / "student")
    with pytest.raises(ConfigurationError, match=r"missing; 'classifier.bias', 'classifier.weight' are unexpected"):
        load_student(another_head(), tmp_path / "student")


def test_weights_that_the_model_ties_and_the_student_did_not_are_refused(tmp_path: Path) -> None:
    student = Tied()
    student.second.weight = nn.Parameter(torch.zeros(4, 4))
    save_student(student, {}, tmp_path / "student")
    with pytest.raises(ConfigurationError, match=r"'first\.weight', 'second\.weight' are one tensor in the model"):
        load_student(Tied(), tmp_path / "student")


def test_wrapped_student_is_saved_without_its_wrapper(tmp_path: Path) -> None:
    student = nn.Linear(2, 2)
    for number, wrapped in enumerate((torch.compile(student, backend="eager"), nn.DataParallel(student))):
        save_student(wrapped, {}, tmp_path / str(number))
        assert torch.equal(load_student(nn.Linear(2, 2), tmp_path / str(number)).weight, student.weight)
        fresh = nn.DataParallel(nn.Linear(2, 2))
        assert load_student(fresh, tmp_path / str(number)) is fresh
        assert torch.equal(fresh.module.weight, student.weight)


def test_lazy_layers_are_loaded(tmp_path: Path) -> None:
    student = nn.LazyLinear(2)
    student(torch.ones(1, 3))
    save_student(student, {}, tmp_path / "student")
    assert torch.equal(load_student(nn.LazyLinear(2), tmp_path / "student").weight, student.weight)


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(TrialError, match="must consist of tensors to be saved, but '_extra_state' is not"):
        save_student(Counting(2, 2), {}, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/model.safetensors", "..", 3])
def test_files_of_a_student_outside_of_its_folder_are_refused(tmp_path: Path, name: object) -> None:
    save_student(bert(), {}, tmp_path / "other")
    save_student(bert(), {}, tmp_path / "student")
    file = tmp_path / "student" / "student.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": [name]}))
    with pytest.raises(ConfigurationError, match=r"are in its own folder, but .*student names"):
        load_student(bert(), tmp_path / "student")
    file.unlink()
    index = {"metadata": {}, "weight_map": {"pooler.dense.bias": name}}
    (tmp_path / "student" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigurationError, match=r"are in its own folder, but .*student names"):
        load_student(bert(), tmp_path / "student")


def test_library_is_not_led_to_files_outside(tmp_path: Path) -> None:
    save_student(bert(), {}, tmp_path / "student")
    index = {"metadata": {}, "weight_map": {"pooler.dense.bias": "../model.safetensors"}}
    (tmp_path / "student" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigurationError, match=r"are in its own folder, but .*student names"):
        reload_problems(tmp_path / "student")


@pytest.mark.parametrize("name", ["AutoConfig", "AutoModel", "utils.import_utils.os.system"])
def test_only_classes_of_models_are_used_that_a_file_names(tmp_path: Path, name: str) -> None:
    save_student(bert(), {}, tmp_path / "student")
    file = tmp_path / "student" / "student.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"class": ["transformers", name]}))
    assert reload_problems(tmp_path / "student") == [f"its class transformers.{name} is no class of models"]


def test_class_that_is_no_text_is_damage(tmp_path: Path) -> None:
    save_student(bert(), {}, tmp_path / "student")
    file = tmp_path / "student" / "student.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"class": ["transformers", 3]}))
    with pytest.raises(SearchDirectoryError, match="TypeError: 3 is no text"):
        reload_problems(tmp_path / "student")
