"""The JSON schema of a configuration file: every key that can be written, and no other."""

from __future__ import annotations

import dataclasses
import json

import pytest

from autodistill import AutoDistillationConfig, FlashDistillationConfig, Metric
from autodistill.config import SearchConfig, json_schema
from autodistill.config.schema import DIALECT


def test_schema_has_every_key_that_can_be_written_and_no_other() -> None:
    schema = json_schema()
    sections = AutoDistillationConfig.model_fields.keys()
    assert set(schema["properties"]) == {*sections, "auto_distillation", "train", "evaluation"}
    assert set(schema["properties"]["auto_distillation"]["properties"]) == {*sections, "train", "evaluation"}
    search = schema["$defs"]["SearchConfig"]
    assert set(search["properties"]) == {*SearchConfig.model_fields, "constraints", "higher_is_better"}
    trials = [{"minimum": 1, "type": "integer"}, {"type": "null"}]
    assert search["properties"]["max_trials"] == {"default": 10, "title": "Max Trials", "anyOf": trials}
    assert {"type": "null"} in search["properties"]["promote"]["anyOf"]
    metric = search["properties"]["metrics"]["anyOf"][1]["properties"]
    assert set(metric) == {field.name for field in dataclasses.fields(Metric)}
    assert search["additionalProperties"] is schema["additionalProperties"] is False
    flash = schema["$defs"]["FlashDistillationConfig"]["properties"]
    assert set(flash) == set(FlashDistillationConfig.model_fields)


def test_schema_is_json_of_its_dialect_and_needs_a_search() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == DIALECT == "https://json-schema.org/draft/2020-12/schema"
    assert schema["anyOf"] == [{"required": ["search"]}, {"required": ["auto_distillation"]}]
    assert schema["properties"]["auto_distillation"]["required"] == ["search"]


@pytest.mark.parametrize("section", ["flash_distillation", "regular_distillation", "init"])
def test_section_may_be_written_by_name(section: str) -> None:
    constants = [form["const"] for form in json_schema()["properties"][section]["anyOf"] if "const" in form]
    assert constants == (["teacher"] if section == "init" else ["auto"])


def test_elastic_section_may_be_true_or_false() -> None:
    assert {"type": "boolean"} in json_schema()["properties"]["elastic"]["anyOf"]


def test_flash_section_may_hold_both_phases() -> None:
    (both,) = (
        form
        for form in json_schema()["properties"]["flash_distillation"]["anyOf"]
        if "knowledge_transfer" in form.get("properties", {})
    )
    assert both["properties"].keys() == {"knowledge_transfer", "regular_distillation"}
    assert both["additionalProperties"] is False


@pytest.mark.parametrize("field", ["add_origin_loss", "train_steps"])
def test_fields_of_regular_distillation_may_be_lists(field: str) -> None:
    single, several = json_schema()["$defs"]["RegularDistillationConfig"]["properties"][field]["anyOf"]
    assert several == {"type": "array", "items": single}
