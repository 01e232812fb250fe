"""The paths of event apps: each request event, and the management of each STREAM event."""

from __future__ import annotations

from typing import Any

from apispec import APISpec

from taskstream.app.api import Described
from taskstream.dataobjects import field_for
from taskstream.events.loader import Loaded
from taskstream.events.request import RequestEvent
from taskstream.events.stream import StreamEvent
from taskstream.openapi.schemas import Schemas, problem

_STATE = {
    "type": "object",
    "required": ["event", "state", "workers"],
    "properties": {
        "event": {"type": "string"},
        "state": {"type": "string", "enum": ["started", "stopped"]},
        "workers": {"type": "array", "items": {"type": "string"}},
    },
}


def add_events(spec: APISpec, schemas: Schemas, loaded: Loaded) -> None:
    """Add the paths of ``loaded`` events."""
    for event in loaded.requests:
        spec.path(event.route, operations={event.method.lower(): _operation(event, schemas)})
    if loaded.streams:
        spec.components.schema("StreamState", _STATE)
    for stream in loaded.streams:
        for verb in ("start", "stop"):
            path = f"/mgmt/{stream.app.name}/{stream.app.path_version}/{stream.name}/{verb}"
            spec.path(path, operations={"post": _management(stream, verb)})


def _operation(event: RequestEvent, schemas: Schemas) -> dict[str, Any]:
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
    found["responses"]["default"] = problem()
    return found


def _parameter(name: str, given: Described, schemas: Schemas) -> dict[str, Any]:
    field = field_for(given.datatype)
    found = {"in": "query", "name": name, "required": not field.allow_none, "schema": schemas.of(given.datatype)}
    return {**found, "description": given.description} if given.description else found


def _answer(event: RequestEvent, answer: Described, schemas: Schemas) -> dict[str, Any]:
    schema = schemas.of(answer.datatype)
    if answer.datatype in (str, int, float, bool, None):  # answered under the event's name
        schema = {"type": "object", "required": [event.name], "properties": {event.name: schema}}
    return {"description": answer.description or "the answer", "content": {"application/json": {"schema": schema}}}


def _management(stream: StreamEvent, verb: str) -> dict[str, Any]:
    done = {"application/json": {"schema": {"$ref": "#/components/schemas/StreamState"}}}
    return {
        "operationId": f"{stream.label}.{verb}",
        "tags": ["management"],
        "summary": f"{verb.title()} consuming {stream.label}",
        "description": "Reaches every worker of the event and is remembered; doing it twice is the same as once.",
        "responses": {"200": {"description": "who obeyed", "content": done}, "default": problem()},
    }
