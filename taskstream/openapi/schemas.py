"""What every part of the document is made with: schemas of types, and the answer of a failure."""

from __future__ import annotations

from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema

from taskstream import fields
from taskstream.dataobjects import Object, field_for

PROBLEM_TYPE = "application/problem+json"

PROBLEM = {
    "description": "Why a request failed (RFC 9457)",
    "type": "object",
    "required": ["title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {"type": "object", "description": "What is wrong, by field", "additionalProperties": True},
    },
}


class Schemas(MarshmallowPlugin):
    """apispec's plugin, knowing the project's own fields."""

    def __init__(self) -> None:
        super().__init__(schema_name_resolver=self._name)
        self._kinds: dict[str, type[Any]] = {}

    def init_spec(self, spec: APISpec) -> None:
        """Called by apispec."""
        super().init_spec(spec)
        assert self.converter is not None
        self.converter.add_attribute_function(_own_properties)  # type: ignore[no-untyped-call] # typed only in part

    def _name(self, schema: type[Schema] | Schema) -> str:
        """The dataobject's name; with its module where two of one name meet."""
        kind: type[Any] = schema.kind  # type: ignore[union-attr]
        if self._kinds.setdefault(kind.__name__, kind) is kind:
            return kind.__name__
        return f"{kind.__module__}.{kind.__qualname__}".replace("<", "").replace(">", "")

    def of(self, datatype: Any) -> dict[str, Any]:
        """The schema of a type; dataobjects become references to components."""
        return self.of_field(field_for(datatype))

    def of_field(self, field: fields.Strict) -> dict[str, Any]:
        """The schema of what a field takes."""
        assert self.converter is not None
        found: dict[str, Any] = self.converter.field2property(field)
        return found


def _own_properties(self: OpenAPIConverter, field: Any, ret: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    if isinstance(field, fields.Integer):
        return {"format": "int64"}
    if isinstance(field, fields.DecimalText):
        return {"format": "decimal"}
    if isinstance(field, fields.Either):
        return {"anyOf": [self.field2property(member) for member in field.members]}
    if isinstance(field, fields.Row):
        parts = [self.field2property(part) for part in field.tuple_fields]
        return {"type": "array", "items": {"anyOf": parts}, "minItems": len(parts), "maxItems": len(parts)}
    if isinstance(field, Object) and field.allow_none:
        # apispec says "any object, or this one" here, which hides what is expected.
        ret.pop("anyOf", None)
        reference = self.resolve_nested_schema(field.schema)  # type: ignore[no-untyped-call] # typed only in part
        return {"nullable": True, "allOf": [reference]}
    return {}


def problem() -> dict[str, Any]:
    """The response of any failure."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": "any failure", "content": content}
