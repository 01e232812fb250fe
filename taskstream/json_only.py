"""Validates arguments whose annotation says nothing of what is inside them: JSON values, and nothing that only has a
JSON form. Checks values, converts none."""

from __future__ import annotations

import enum
from typing import Any

from taskstream.dataobjects import Validator
from taskstream.errors import ValidationError


class JsonOnly(Validator):
    """For arguments whose annotation says nothing of what is inside: JSON values, which arrive as what was sent."""

    __slots__ = ()

    def dump(self, value: object) -> Any:
        """Refuses what has a JSON form but would arrive as something else, such as a datetime."""
        try:
            foreign = _foreign(value)
        except RecursionError:
            foreign = None  # told by the validator
        if foreign is not None:
            text = f"{foreign} is no JSON value; annotate the argument with its type."
            raise ValidationError(text, {"_schema": [text]})
        return super().dump(value)


def _foreign(value: object) -> str | None:
    """What in a value is none of JSON's types."""
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, enum.Enum)):
        return None
    if isinstance(value, (list, tuple)):
        return next((found for item in value if (found := _foreign(item))), None)
    if isinstance(value, dict):
        if (key := next((key for key in value if not isinstance(key, str)), None)) is not None:
            return f"A key of type {type(key).__name__}"
        return next((found for item in value.values() if (found := _foreign(item))), None)
    return f"A {type(value).__name__}"
