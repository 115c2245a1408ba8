"""The JSON schema of a configuration file, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind

from autodistill.config.auto_distillation import AutoDistillationConfig
from autodistill.config.layouts import FLASH, REGULAR, TRANSFER
from autodistill.config.layouts import HOOK_SECTIONS as HOOKS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_METRIC: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                **{bound: {"type": ["number", "null"]} for bound in ("at_most", "at_least")},
                **{flag: {"type": "boolean"} for flag in ("greater_is_better", "measured", "before_training")},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    ]
}

_SEARCH: dict[str, Any] = {
    "search_space": {"type": "object", "description": "dimensions: lists, or ranges {low, high, step, log}"},
    "constraints": {"type": "array", "items": {"type": "string"}},
    "metrics": {"anyOf": [*_METRIC["anyOf"], {"type": "array", "items": _METRIC}]},
    "promote": {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {"type": "string", "description": "a fraction such as 1/3"},
            {"type": "null"},
        ]
    },
    "higher_is_better": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": ["boolean", "null"]}}]},
}
"""The forms of a space, metrics and a share in a file."""


class _FileSchema(GenerateJsonSchema):
    """The schema of what a file can hold; the descriptions state the forms of objects and functions."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration file with its sections side by side or under
    `auto_distillation`.

    Examples:
        >>> sorted(json_schema()["properties"])[:3]
        ['auto_distillation', 'checkpoint_steps', 'elastic']
    """
    schema = AutoDistillationConfig.model_json_schema(schema_generator=_FileSchema)
    sections = schema["properties"]
    definitions = schema.pop("$defs")
    definitions["SearchConfig"]["properties"] |= _SEARCH
    regular = definitions["RegularDistillationConfig"]["properties"]
    for field in ("add_origin_loss", "train_steps"):
        regular[field] = {"anyOf": [regular[field], {"type": "array", "items": regular[field]}]}
    phases = {phase: {"anyOf": [*sections[phase]["anyOf"], {"const": "auto"}]} for phase in (FLASH, REGULAR)}
    both = {"type": "object", "properties": {TRANSFER: phases[FLASH], REGULAR: phases[REGULAR]}}
    sections |= phases
    sections[FLASH] = {"anyOf": [*phases[FLASH]["anyOf"], both | {"additionalProperties": False}]}
    sections["init"] = {"anyOf": [*sections["init"]["anyOf"], {"const": "teacher"}]}
    sections["elastic"] = {"anyOf": [*sections["elastic"]["anyOf"], {"type": "boolean"}]}
    sections |= {name: {"description": "for the reader: it is a function that trains or evaluates"} for name in HOOKS}
    inside = {"type": "object", "properties": dict(sections), "required": ["search"], "additionalProperties": False}
    return {
        "$schema": DIALECT,
        "$defs": definitions,
        "title": schema["title"],
        "description": schema["description"],
        "type": "object",
        "properties": {**sections, "auto_distillation": inside},
        "anyOf": [{"required": ["search"]}, {"required": ["auto_distillation"]}],
        "additionalProperties": False,
    }
