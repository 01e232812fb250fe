"""The OpenAPI document of an app."""

from __future__ import annotations

import json

from taskstream import Taskstream
from taskstream.openapi import document

from .conftest import MakeApp


def test_schema_of_a_dataobject(make_app: MakeApp) -> None:
    work = """
        class Colour(enum.Enum):
            RED = "red"
            BLUE = "blue"

        @dataobject
        class Inner:
            x: int

        @dataobject
        class Outer:
            inner: Inner
            maybe: Optional[Inner]
            items: list[Inner]
            table: dict[str, int]
            colour: Colour
            price: Decimal
            when: datetime.datetime
            either: int | str
            row: tuple[int, str]
            anything: Any = None

        __steps__ = ["step"]
        def step(value: Outer) -> int: return 1
    """
    loaded = make_app({"work": work}, {"work": {"type": "POST"}})
    found = document(loaded)
    content = found["paths"][loaded.requests[0].route]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Outer"}
    schemas = found["components"]["schemas"]
    reference = {"$ref": "#/components/schemas/Inner"}
    outer = schemas["Outer"]
    assert outer["additionalProperties"] is False
    assert sorted(outer["required"]) == sorted(set(outer["properties"]) - {"anything"})
    assert outer["properties"] == {
        "inner": reference,
        "maybe": {"nullable": True, "allOf": [reference]},
        "items": {"type": "array", "items": reference},
        "table": {"type": "object", "additionalProperties": {"type": "integer", "format": "int64"}},
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "price": {"type": "string", "format": "decimal"},
        "when": {"type": "string", "format": "date-time"},
        "either": {"anyOf": [{"type": "integer", "format": "int64"}, {"type": "string"}]},
        "row": {
            "type": "array",
            "items": {"anyOf": [{"type": "integer", "format": "int64"}, {"type": "string"}]},
            "minItems": 2,
            "maxItems": 2,
        },
        "anything": {"nullable": True},
    }
    assert schemas["Inner"]["properties"] == {"x": {"type": "integer", "format": "int64"}}


def test_document_of_an_app(make_app: MakeApp) -> None:
    post = (
        '''
"""
Do it
=====
And say so.
"""
'''
        """
__steps__ = ["step"]
__api__ = event_api(
    payload=(In, "what to do"), query_args=[("n", int, "how often"), "note"],
    responses={200: (Out, "done"), 400: (str, "not done")},
)
def step(value: In, context, n, note=None) -> Out:
    return Out("a")
"""
    )
    loaded = make_app(
        {"do_it": post.strip(), "get_it": "__steps__ = ['step']\ndef step(value: None) -> int: return 1", "work": post},
        {
            "do-it": {"type": "POST"},
            "get-it": {"type": "GET"},
            "work": {"type": "STREAM", "read_stream": {"name": "s", "consumer_group": "g"}},
        },
    )
    found = document(loaded)
    app = loaded.apps[0].name
    assert found["openapi"] == "3.0.3"
    assert found["info"]["title"] == app.replace("-", " ").title()
    assert found["info"]["version"] == "1.0"
    assert list(found["paths"]) == [
        f"/api/{app}/1x0/do-it",
        f"/api/{app}/1x0/get-it",
        f"/mgmt/{app}/1x0/work/start",
        f"/mgmt/{app}/1x0/work/stop",
    ]
    operation = found["paths"][f"/api/{app}/1x0/do-it"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/In"}
    assert operation["parameters"] == [
        {
            "in": "query",
            "name": "n",
            "required": True,
            "schema": {"type": "integer", "format": "int64"},
            "description": "how often",
        },
        {"in": "query", "name": "note", "required": False, "schema": {"type": "string", "nullable": True}},
    ]
    answers = operation["responses"]
    assert answers["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Out"}
    assert answers["400"]["content"]["application/json"]["schema"]["properties"] == {"do-it": {"type": "string"}}
    assert "application/problem+json" in answers["default"]["content"]
    assert list(found["paths"][f"/mgmt/{app}/1x0/work/stop"]) == ["post"]
    assert json.dumps(found) == json.dumps(document(loaded))


def test_summary_comes_from_the_docstring(make_app: MakeApp) -> None:
    source = "__steps__ = ['step']\n__doc__ = '''Do it:\n====\nAnd say so.'''\ndef step(value: In): return value"
    loaded = make_app({"do": source}, {"do": {"type": "POST"}})
    (operation,) = (found["post"] for found in document(loaded)["paths"].values())
    assert (operation["summary"], operation["description"]) == ("Do it", "And say so.")


def test_two_dataobjects_of_one_name_are_both_described(make_app: MakeApp) -> None:
    # Both modules define classes In and Out of their own.
    source = "__steps__ = ['step']\ndef step(value: In): return value"
    loaded = make_app({"a": source, "b": source}, {"a": {"type": "POST"}, "b": {"type": "POST"}})
    schemas = document(loaded)["components"]["schemas"]
    assert [name for name in schemas if name.endswith("In")] == ["In", f"{loaded.apps[0].package}.b.In"]


def test_an_app_of_tasks_is_described_beside_events(make_app: MakeApp) -> None:
    loaded = make_app(
        {"work": '__steps__ = ["step"]\ndef step(value: None) -> int: return 1'}, {"work": {"type": "GET"}}
    )
    tasks = Taskstream("more-work")
    tasks.task(name="more-work.do")(lambda: None)
    found = document(loaded, tasks)
    assert {loaded.requests[0].route, "/api/tasks/more-work.do", "/api/tasks/{id}"} <= found["paths"].keys()
    assert "Tasks of more-work" in found["info"]["description"] and found["info"]["title"].endswith(", More Work")
    assert found["info"]["version"] == document(loaded)["info"]["version"]
