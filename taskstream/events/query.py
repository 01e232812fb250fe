"""Query arguments: from their texts to the values of their declared types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marshmallow.fields import Nested

from taskstream import fields
from taskstream.app.api import Described
from taskstream.dataobjects import Validator
from taskstream.errors import ConfigError, ValidationError, one_line

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,4})?")
_BOOLEANS = {"true": True, "false": False}

ToPlain = Callable[[str], Any]


def _plain_reader(field: fields.Strict) -> ToPlain:
    """How the text of one value becomes the plain value that ``field`` reads. Raises ConfigError."""
    if isinstance(field, fields.Integer):
        return lambda text: int(text) if _INTEGER.fullmatch(text) else text
    if isinstance(field, fields.Float):
        return lambda text: float(text) if _NUMBER.fullmatch(text) else text
    if isinstance(field, fields.Boolean):
        return lambda text: _BOOLEANS.get(text, text)
    if isinstance(field, fields.EnumValue) and isinstance(field.field, fields.Strict):
        return _plain_reader(field.field)
    if isinstance(field, fields.Items | fields.Row | fields.Table | fields.Either | Nested):
        raise ConfigError("is not supported; use text, numbers, dates, an Enum, Optional or a list of one of these")
    return lambda text: text


class QueryArgument:
    """One declared argument."""

    def __init__(self, name: str, described: Described, where: str) -> None:
        """Raises ConfigError for a type that has no place in a query."""
        self.name = name
        try:
            self.validator = Validator(described.datatype, name)
        except ConfigError as error:
            raise ConfigError(f"{where}: query argument {error}") from None
        field = self.validator.field
        self.many = isinstance(field, fields.Items)
        self.required = not field.allow_none
        try:
            self._plain = _plain_reader(field.item if isinstance(field, fields.Items) else field)
        except ConfigError as error:
            raise ConfigError(f"{where}: query argument {name!r}: type {error}") from None

    def read(self, texts: Sequence[str]) -> Any:
        """The value. Raises ValidationError."""
        if not self.many and len(texts) > 1:
            raise ValidationError("given more than once", {self.name: ["Given more than once."]})
        plain = [self._plain(text) for text in texts]
        return self.validator.load(plain if self.many else plain[0])


class QueryReader:
    """All arguments of one event."""

    def __init__(self, declared: Mapping[str, Described], where: str) -> None:
        """Raises ConfigError."""
        self.arguments = {name: QueryArgument(name, described, where) for name, described in declared.items()}

    def read(self, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Name → value, None for an optional one that was not given. Raises ValidationError by name."""
        errors: dict[str, object] = {}
        for name in list(query.keys() - self.arguments.keys())[:20]:
            errors[name[:200]] = ["Unknown query argument."]
        found: dict[str, Any] = {}
        for name, argument in self.arguments.items():
            texts = query.get(name)
            if texts:
                try:
                    found[name] = argument.read(texts)
                except ValidationError as error:
                    # Errors of the one value stand under its name, not one level further down.
                    errors[name] = error.errors.get("_schema", error.errors.get(name, error.errors))
            elif argument.required:
                errors[name] = ["Missing query argument."]
            else:
                found[name] = None
        if errors:
            raise ValidationError(f"query: {one_line(errors)}", errors)
        return found
