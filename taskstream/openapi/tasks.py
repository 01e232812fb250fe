"""The paths of tasks: one POST for each, with the schema of its arguments, and what follows up any call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec
from apispec import APISpec

from taskstream.app.core import Taskstream
from taskstream.app.task import Task
from taskstream.arguments import Parameter
from taskstream.message import MESSAGE_ID
from taskstream.openapi.schemas import Schemas, problem
from taskstream.results.base import FAILURE, RETRY, REVOKED, SUCCESS

PATH = "/api/tasks"
TAG = "tasks"

_STATES = ["PENDING", "SCHEDULED", "STARTED", "PROGRESS", RETRY, SUCCESS, FAILURE, REVOKED]
_ID = {"type": "string", "pattern": f"^{MESSAGE_ID.pattern}$"}
_TIME = {"type": "string", "format": "date-time"}
_MOMENT = {**_TIME, "nullable": True}
_SECONDS = {"type": "number", "nullable": True}

CALL = {
    "description": "What became of a call, as far as it is known",
    "type": "object",
    "required": ["id", "state"],
    "properties": {
        "id": _ID,
        "state": {"type": "string", "enum": _STATES},
        "task": {"type": "string", "description": "Its name"},
        "value": {"description": "What the task returned", "nullable": True},
        "error": {
            "description": "Why it failed",
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "info": {"description": "What the running task says of its progress"},
        "since": {**_TIME, "description": "Of one that is not done: since when it is in this state"},
        "due": {**_TIME, "description": "Of a scheduled one: when it is to run"},
        "revoked": {
            "type": "boolean",
            "description": "Of a call that was to be revoked: whether it had not ended before",
        },
        "attempts": {"type": "integer"},
        "sent": _TIME,
        "started": _TIME,
        "finished": _TIME,
        "worker": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
OPTIONS: dict[str, Any] = {
    "description": "How to send the call; every one may be left out",
    "type": "object",
    "additionalProperties": False,
    "example": {},
    "properties": {
        "queue": {"type": "string", "nullable": True, "description": "Instead of the task's own queue"},
        "countdown": {**_SECONDS, "minimum": 0, "description": "Seconds from now until it is due"},
        "eta": {**_MOMENT, "description": "When it is due, with an offset"},
        "expires": {
            "description": "When it is no longer to be run: seconds from now, or a time with an offset",
            "nullable": True,
            "anyOf": [{"type": "number"}, _TIME],
        },
        "priority": {
            "type": "integer",
            "nullable": True,
            "minimum": 0,
            "maximum": 9,
            "description": "0 is first, 5 is usual",
        },
        "ordering_key": {
            "type": "string",
            "nullable": True,
            "description": "Calls with one key are handled one after the other, in the order sent",
        },
        "headers": {
            "type": "object",
            "nullable": True,
            "additionalProperties": True,
            "description": "Travel with the message; names beginning with ts- are reserved",
        },
        "task_id": {**_ID, "nullable": True, "description": "The id of the message; a repeat sends nothing"},
        "idempotency_key": {
            "type": "string",
            "nullable": True,
            "minLength": 1,
            "description": "As the header Idempotency-Key",
        },
    },
}
_PREFER = {
    "in": "header",
    "name": "Prefer",
    "required": False,
    "schema": {"type": "string"},
    "description": "wait=5: wait so many seconds for the result, 30 at most",
}
_IDEMPOTENCY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string"},
    "description": "A repeat within 24 hours sends nothing and answers with the first call's id",
}
_ID_IN_PATH = {"in": "path", "name": "id", "required": True, "schema": _ID}


def add_tasks(spec: APISpec, schemas: Schemas, app: Taskstream) -> None:
    """Add the paths of the tasks of ``app``. Raises ConfigError for annotations that cannot be used."""
    spec.components.schema("Call", CALL)
    spec.components.schema("TaskOptions", OPTIONS)
    for name, task in sorted(app.tasks.items()):
        arguments = f"{name.replace(':', '_')}.arguments"
        spec.components.schema(arguments, _by_name(task.parameters, schemas))
        spec.path(f"{PATH}/{name}", operations={"post": _send(name, task, arguments)})
    spec.path(f"{PATH}/{{id}}", operations={"get": _look(), "delete": _revoke()})
    spec.path(f"{PATH}/{{id}}/events", operations={"get": _listen()})


def _by_name(parameters: Sequence[Parameter], schemas: Schemas) -> dict[str, Any]:
    """The arguments of a call that gives all it can by name."""
    properties: dict[str, Any] = {}
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    for parameter in parameters:
        if parameter.rest:
            if parameter.by_name:
                found["additionalProperties"] = schemas.of_field(parameter.field) or True
        elif parameter.by_name:
            schema = schemas.of_field(parameter.field)
            if parameter.default is not msgspec.UNSET and "$ref" not in schema:
                schema = {**schema, "default": parameter.default}
            properties[parameter.name] = schema
    required = [one.name for one in parameters if one.required and one.by_name]
    return {**found, "required": required} if required else found


def _body(parameters: Sequence[Parameter], arguments: str) -> dict[str, Any]:
    """The schema of a request's body: everything by name, or some of it by position."""
    reference = {"$ref": f"#/components/schemas/{arguments}"}
    options = {"$ref": "#/components/schemas/TaskOptions"}
    by_name = _object({"kwargs": reference, "options": options})
    placed = [one for one in parameters if one.by_position]
    if not placed:
        return {**by_name, "required": ["kwargs"]} if any(one.required for one in parameters) else by_name
    row: dict[str, Any] = {"type": "array", "items": {}, "description": _row_text(placed)}
    if not any(one.rest for one in placed):
        row["maxItems"] = len(placed)
    row["minItems"] = sum(one.required and not one.by_name for one in placed)
    by_position = _object({"args": row, "kwargs": {"type": "object"}, "options": options})
    if not any(one.required for one in parameters):
        return {"anyOf": [by_name, by_position]}
    by_position["required"] = ["args"]
    if any(one.required and not one.by_name for one in placed):
        return by_position
    return {"anyOf": [{**by_name, "required": ["kwargs"]}, by_position]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _row_text(placed: Sequence[Parameter]) -> str:
    return "By position: " + ", ".join(f"{one.name}…" if one.rest else one.name for one in placed)


def _send(name: str, task: Task[..., Any, Any], arguments: str) -> dict[str, Any]:
    parameters = task.parameters
    title, _, rest = inspect.cleandoc(task.__doc__ or "").partition("\n")
    call = {"application/json": {"schema": {"$ref": "#/components/schemas/Call"}}}
    found: dict[str, Any] = {
        "operationId": name,
        "tags": [TAG],
        "summary": title.strip() or f"Call {name}",
        "parameters": [_PREFER, _IDEMPOTENCY],
        "requestBody": {
            "required": any(one.required for one in parameters),
            "content": {"application/json": {"schema": _body(parameters, arguments)}},
        },
        "responses": {
            "200": {"description": "the result, where the client wanted to wait for it", "content": call},
            "202": {
                "description": "the call is in its queue",
                "headers": {
                    "Location": {"description": "where the call can be followed up", "schema": {"type": "string"}},
                    "Preference-Applied": {"description": "which wait was granted", "schema": {"type": "string"}},
                },
                "content": call,
            },
            "default": problem(),
        },
    }
    return {**found, "description": rest.strip()} if rest.strip() else found


def _look() -> dict[str, Any]:
    call = {"application/json": {"schema": {"$ref": "#/components/schemas/Call"}}}
    return {
        "operationId": "tasks.look",
        "tags": [TAG],
        "summary": "What became of a call",
        "description": "An id that nothing is known of is PENDING.",
        "parameters": [_ID_IN_PATH, _PREFER],
        "responses": {"200": {"description": "as it is now", "content": call}, "default": problem()},
    }


def _revoke() -> dict[str, Any]:
    call = {"application/json": {"schema": {"$ref": "#/components/schemas/Call"}}}
    terminate = {"type": "boolean", "default": False}
    return {
        "operationId": "tasks.revoke",
        "tags": [TAG],
        "summary": "Have a call not run any more",
        "description": "It ends as REVOKED when its turn comes. Doing it again is the same as doing it once.",
        "parameters": [
            _ID_IN_PATH,
            {
                "in": "query",
                "name": "terminate",
                "required": False,
                "schema": terminate,
                "description": "interrupt it where it runs",
            },
            {
                "in": "query",
                "name": "queue",
                "required": False,
                "schema": {"type": "string"},
                "description": "where it went, if not to a queue of the tasks served here",
            },
        ],
        "responses": {
            "200": {"description": "it had ended before", "content": call},
            "202": {"description": "it is revoked", "content": call},
            "default": problem(),
        },
    }


def _listen() -> dict[str, Any]:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        "operationId": "tasks.listen",
        "tags": [TAG],
        "summary": "What becomes of a call, as it happens",
        "description": (
            "Server-sent events `state`, `progress` and `result`, each with what the call's own path would answer. "
            "The last one is `result`."
        ),
        "parameters": [_ID_IN_PATH],
        "responses": {
            "200": {"description": "events until the call has ended", "content": stream},
            "204": {"description": "the client has seen the last event (Last-Event-ID)"},
            "default": problem(),
        },
    }
