"""What every section of the configuration has in common: it is immutable, and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from autodistill.config.reading import read_configuration, sentences
from autodistill.errors import ConfigurationError

Count = Annotated[int, Field(ge=1, strict=True)]
"""A number of steps or trials; strict, since True would pass for 1."""


class Disagreement(NamedTuple):
    """A mistake in a setting that depends on other settings of its section.

    Attributes:
        setting: the one for which it is reported.
        sentence: what is wrong.
        others: those on which it depends; if one of them is invalid, this is not reported.
    """

    setting: str
    sentence: str
    others: tuple[str, ...] = ()


class Section(BaseModel):
    """A section of the configuration: immutable, with an error for unknown keys.

    Raises:
        ConfigurationError: its settings are wrong; all mistakes in one error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            """Settings by name.

            Raises:
                ConfigurationError: they are wrong; all mistakes in one error.
            """
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ConfigurationError(list(sentences(type(self), error))) from None

        __init__.__pydantic_base_init__ = True  # pydantic validates nested sections without it, and keeps positions

    def _disagreements(self) -> Iterator[Disagreement]:
        """The mistakes in settings that are valid individually, but not together."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _report_disagreements_with_other_mistakes(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Compare the other settings too if some are wrong, which pydantic would not do."""
        try:
            return validate(data)
        except ValidationError as error:
            if not isinstance(data, Mapping):
                raise
            mistakes = [
                InitErrorDetails(type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {}))
                for item in error.errors(include_url=False)
            ]
            wrong = {str(item["loc"][0]) for item in mistakes if item["loc"]}
            try:
                rest = validate({name: value for name, value in data.items() if name not in wrong})
            except ValidationError:
                raise error from None
            found = [mistake for mistake in rest._disagreements() if not wrong & {mistake.setting, *mistake.others}]
            raise _error(rest, found, mistakes) from None

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        found = list(self._disagreements())
        if found:
            raise _error(self, found)
        return self

    def configured(self) -> dict[str, Any]:
        """The settings that were configured, by name, without those that only have their default.

        Examples:
            >>> from autodistill import AnnealedTemperature
            >>> AnnealedTemperature(start=5, end=1).configured()
            {'start': 5.0, 'end': 1.0}
        """
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def with_changes(self, **changes: Any) -> Self:
        """The same settings with some changed, checked as a whole like a new configuration.

        Args:
            changes: values by the names of settings; what is not named stays as it was configured.

        Raises:
            ConfigurationError: the changed settings are wrong, or conflict with the others; all mistakes in one error.

        Examples:
            >>> from autodistill import AnnealedTemperature
            >>> AnnealedTemperature(start=5, end=1).with_changes(end=2, shape="cosine")
            AnnealedTemperature(start=5.0, end=2.0, shape='cosine')
        """
        return read_configuration(type(self), {**self.configured(), **changes})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; an `update` is validated, see `with_changes`."""
        changed = self.with_changes(**update) if update else self
        return super(Section, changed).model_copy(deep=deep)


def _error(
    section: Section, disagreements: Iterable[Disagreement], mistakes: Iterable[InitErrorDetails] = ()
) -> ValidationError:
    """All mistakes of a section as one error, each with its setting."""
    found = [
        InitErrorDetails(
            type="value_error",
            loc=(setting,),
            input=getattr(section, setting),
            ctx={"error": ValueError(sentence)},
        )
        for setting, sentence, _ in disagreements
    ]
    return ValidationError.from_exception_data(type(section).__name__, [*mistakes, *found])
