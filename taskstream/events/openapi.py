"""The OpenAPI 3 document of loaded event apps: paths from the events, schemas from their dataobjects."""

from __future__ import annotations

from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema

from taskstream import fields
from taskstream.app.api import Described
from taskstream.dataobjects import Object, field_for
from taskstream.events.loader import Loaded
from taskstream.events.request import RequestEvent
from taskstream.events.stream import StreamEvent

OPENAPI = "3.0.3"
PROBLEM_TYPE = "application/problem+json"

_PROBLEM = {
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
_STATE = {
    "type": "object",
    "required": ["event", "state", "workers"],
    "properties": {
        "event": {"type": "string"},
        "state": {"type": "string", "enum": ["started", "stopped"]},
        "workers": {"type": "array", "items": {"type": "string"}},
    },
}


class _Schemas(MarshmallowPlugin):
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
        assert self.converter is not None
        found: dict[str, Any] = self.converter.field2property(field_for(datatype))
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


def document(loaded: Loaded) -> dict[str, Any]:
    """The OpenAPI document; the same for the same configuration and code."""
    schemas = _Schemas()
    titles = [app.name.replace("-", " ").replace("_", " ").title() for app in loaded.apps]
    names = ", ".join(f"{app.name} {app.version}" for app in loaded.apps)
    spec = APISpec(
        title=", ".join(titles),
        version=loaded.apps[0].version,
        openapi_version=OPENAPI,
        info={"description": f"Events of {names}"},
        plugins=[schemas],
    )
    spec.components.schema("Problem", _PROBLEM)
    for event in loaded.requests:
        spec.path(event.route, operations={event.method.lower(): _operation(event, schemas)})
    if loaded.streams:
        spec.components.schema("StreamState", _STATE)
    for stream in loaded.streams:
        for verb in ("start", "stop"):
            path = f"/mgmt/{stream.app.name}/{stream.app.path_version}/{stream.name}/{verb}"
            spec.path(path, operations={"post": _management(stream, verb)})
    found: dict[str, Any] = spec.to_dict()
    return found


def _operation(event: RequestEvent, schemas: _Schemas) -> dict[str, Any]:
    api, module = event.module.api, event.module
    title, _, rest = module.doc.partition("\n")
    found: dict[str, Any] = {
        "operationId": event.label,
        "tags": [api.title or f"{event.app.name} {event.app.version}"],
        "summary": api.summary or title.strip(" :") or event.name,
    }
    description = api.description or rest.lstrip("=-~^\n ").strip()
    if description:
        found["description"] = description
    if api.query_args:
        found["parameters"] = [_parameter(name, given, schemas) for name, given in api.query_args.items()]
    if event.method == "POST":
        payload = api.payload or Described(module.payload_type)
        content = {"application/json": {"schema": schemas.of(payload.datatype)}}
        found["requestBody"] = {"description": payload.description, "required": True, "content": content}
    responses = api.responses or {200: Described(Any)}
    found["responses"] = {str(status): _answer(event, answer, schemas) for status, answer in sorted(responses.items())}
    found["responses"]["default"] = _problem()
    return found


def _parameter(name: str, given: Described, schemas: _Schemas) -> dict[str, Any]:
    field = field_for(given.datatype)
    found = {"in": "query", "name": name, "required": not field.allow_none, "schema": schemas.of(given.datatype)}
    return {**found, "description": given.description} if given.description else found


def _answer(event: RequestEvent, answer: Described, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas.of(answer.datatype)
    if answer.datatype in (str, int, float, bool, None):  # answered under the event's name
        schema = {"type": "object", "required": [event.name], "properties": {event.name: schema}}
    return {"description": answer.description or "the answer", "content": {"application/json": {"schema": schema}}}


def _problem() -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": "any failure", "content": content}


def _management(stream: StreamEvent, verb: str) -> dict[str, Any]:
    done = {"application/json": {"schema": {"$ref": "#/components/schemas/StreamState"}}}
    return {
        "operationId": f"{stream.label}.{verb}",
        "tags": ["management"],
        "summary": f"{verb.title()} consuming {stream.label}",
        "description": "Reaches every worker of the event and is remembered; doing it twice is the same as once.",
        "responses": {"200": {"description": "who obeyed", "content": done}, "default": _problem()},
    }
