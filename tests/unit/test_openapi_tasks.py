"""The OpenAPI document of tasks: every kind of parameter, and beside events."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import Any

import pytest

from taskstream import ConfigError, Taskstream
from taskstream.openapi import document


class Colour(enum.Enum):
    """Values of JSON."""

    RED = "red"


def body_of(found: dict[str, Any], task: str) -> dict[str, Any]:
    schema: dict[str, Any] = found["paths"][f"/api/tasks/{task}"]["post"]["requestBody"]["content"]["application/json"]
    return schema["schema"]  # type: ignore[no-any-return]


def test_every_way_to_give_an_argument() -> None:
    app = Taskstream("odd")

    @app.task
    def placed(first: int, /, second: str, *rest: float) -> None: ...

    @app.task
    def named(*, when: datetime, colour: Colour = Colour.RED, **more: bool) -> None: ...

    @app.task(name="odd:nothing")
    def nothing() -> None: ...

    @app.task(bind=True)
    def bound(self: Any, pair: tuple[int, str] = (1, "a"), endless: float = float("inf")) -> None: ...

    found = document(None, app)
    json.dumps(found)
    schemas = found["components"]["schemas"]
    args = body_of(found, "odd.placed")["properties"]["args"]
    assert args == {"type": "array", "items": {}, "minItems": 1, "description": "By position: first, second, rest…"}
    assert body_of(found, "odd.placed")["required"] == ["args"]
    assert body_of(found, "odd.named")["required"] == ["kwargs"]
    assert schemas["odd.named.arguments"] == {
        "type": "object",
        "additionalProperties": {"type": "boolean"},
        "required": ["when"],
        "properties": {
            "when": {"type": "string", "format": "date-time"},
            "colour": {"type": "string", "enum": ["red"], "default": "red"},
        },
    }
    assert body_of(found, "odd:nothing")["properties"]["kwargs"]["$ref"].endswith("/odd_nothing.arguments")
    assert found["paths"]["/api/tasks/odd:nothing"]["post"]["requestBody"]["required"] is False
    assert list(schemas["odd.bound.arguments"]["properties"]) == ["pair", "endless"]
    assert schemas["odd.bound.arguments"]["properties"]["pair"]["default"] == [1, "a"]
    assert "default" not in schemas["odd.bound.arguments"]["properties"]["endless"]


def test_annotations_that_cannot_be_used_are_told() -> None:
    app = Taskstream("odd")

    @app.task
    def wrong(value: complex) -> None: ...

    with pytest.raises(ConfigError, match=r"odd\.wrong: argument value"):
        document(None, app)
