"""Reading a configuration: YAML, and every mistake as one sentence that begins with its position."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autodistill.errors import ConfigurationError
from search_spaces.checks import did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def read_configuration(model: type[Model], source: Mapping[str, Any] | str | Path) -> Model:
    """A configuration from a mapping or a YAML file.

    Raises:
        ConfigurationError: the configuration is wrong; all mistakes in one error.
    """
    data = read_yaml(Path(source)) if isinstance(source, str | Path) else source
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(list(sentences(model, error))) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigurationError: the file cannot be read, is not YAML, or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the configuration file {path} must be readable, but: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the configuration file {path} must be YAML, but: {error}") from None
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"the configuration file {path} must hold a mapping, but holds {type(data).__name__}.")
    return dict(data)


def sentences(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Each mistake as one sentence that begins with its position."""
    found: list[str] = []
    for position, section, item in _mistakes(model, error):
        where = ".".join(position) or "the configuration"
        if item["type"] == "extra_forbidden":
            found.append(_unknown_key(where, position[-1], list(section.model_fields)))
        elif item["type"] == "missing":
            found.append(f"{where}: is required, but not given.")
        elif item["type"] == "value_error":
            found.extend(f"{where}: {line}" for line in str(item["ctx"]["error"]).splitlines())
        elif is_number_with_comma(item["input"]):
            number = item["input"].rstrip(" ,")
            found.append(
                f"{where}: a number must stand alone, but got {item['input']!r}, which YAML reads as text because of "
                f"the comma; write {number}."
            )
        else:
            found.append(f"{where}: {item['msg']}, but got {item['input']!r}.")
    return found


def is_number_with_comma(value: Any) -> bool:
    """Whether a value is a number followed by a stray comma.

    Examples:
        >>> is_number_with_comma("1.0,"), is_number_with_comma("1.0"), is_number_with_comma("a,")
        (True, False, False)
    """
    if not isinstance(value, str) or not value.rstrip().endswith(","):
        return False
    try:
        float(value.rstrip(" ,"))
    except ValueError:
        return False
    return True


_OTHER_KIND = ("tuple_type", "callable_type", "model_type")
"""pydantic's errors for members of a union for which the value was not intended."""


def _mistakes(model: type[BaseModel], error: ValidationError) -> list[tuple[list[str], type[BaseModel], ErrorDetails]]:
    """The mistakes with their position and section; for a union, only the most relevant of its members' errors."""
    mistakes = [(*_position(model, item), item) for item in error.errors(include_url=False)]
    kept: list[tuple[list[str], type[BaseModel], ErrorDetails]] = []
    for position, section, item in mistakes:
        below = [other for other, _, _ in mistakes if len(other) > len(position) and other[: len(position)] == position]
        same = [other for other_position, _, other in mistakes if other_position == position and other is not item]
        better = [other for other in same if other["type"] not in _OTHER_KIND]
        reported = any(position == other for other, _, _ in kept) if item["type"] in _OTHER_KIND else False
        if not (below or reported or (better and item["type"] in _OTHER_KIND)):
            kept.append((position, section, item))
    return kept


def _position(model: type[BaseModel], item: ErrorDetails) -> tuple[list[str], type[BaseModel]]:
    """The position of a mistake, without pydantic's names for the members of a union, and its section."""
    position: list[str] = []
    *parents, last = item["loc"] or ("",)
    for part in parents:
        if part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            model = next((kind for kind in (annotation, *get_args(annotation)) if _is_section(kind)), model)
        elif not isinstance(part, int):
            continue
        position.append(str(part))
    if last in model.model_fields or isinstance(last, int) or item["type"] == "extra_forbidden":
        position.append(str(last))
    return position, model


def _unknown_key(where: str, key: str, known: list[str]) -> str:
    hint = did_you_mean(key, known, f"the keys here are {', '.join(known)}.", most=1)
    return f"{where}: is not a key of the configuration; {hint}"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
