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

MAX_CHARACTERS = 50_000
"""Of a configuration file. Reading the largest takes about a second."""

MAX_VALUES = 20_000
"""In a configuration file, those that aliases repeat included: ten lines of aliases can stand for billions."""

_MAX_NUMBER = 100  # characters
_MAX_BRACKETS = 50  # nested in each other; PyYAML takes seconds for hundreds

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
    """The mapping in a YAML file, which may come from anybody: no other types, and limited in size.

    Raises:
        ConfigurationError: the file cannot be read, is not YAML in UTF-8, is too large, or holds something else.
    """
    try:
        with path.open(encoding="utf-8") as file:
            data = _decode_yaml(file.read(MAX_CHARACTERS + 1))
    except OSError as error:
        raise ConfigurationError(f"the configuration file {path} must be readable, but: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the configuration file {path} must be text in UTF-8, but: {error}.") from None
    except RecursionError:
        raise ConfigurationError(f"the configuration file {path} must be YAML, but is nested too deeply.") from None
    # Of a scalar with a tag that does not fit, PyYAML raises what its conversion raises: 2024-13-01 is a date.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise ConfigurationError(f"the configuration file {path} must be YAML, but: {error}") from None
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"the configuration file {path} must hold a mapping, but holds {type(data).__name__}.")
    return dict(data)


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803
        if self.flow_level >= _MAX_BRACKETS:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass)


def _decode_yaml(text: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters.")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _ensure_small(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _ensure_small(root: yaml.Node) -> None:
    """Check the number of values without expanding the aliases: each stands for the node to which it refers."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) in counts:
            return counts[id(node)]
        counts[id(node)] = MAX_VALUES  # until it is counted: an alias of what contains it has no end
        if isinstance(node, yaml.ScalarNode):
            children: list[yaml.Node] = []
            if node.tag != "tag:yaml.org,2002:str" and len(node.value) > _MAX_NUMBER:
                raise ValueError(f"a value that is no text has more than {_MAX_NUMBER} characters{node.start_mark}")
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value
        counts[id(node)] = 1 + sum(map(count, children))
        if counts[id(node)] > MAX_VALUES:
            raise ValueError(f"aliases make it more than {MAX_VALUES:,} values{node.start_mark}")
        return counts[id(node)]

    count(root)


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
