"""STREAM events as handlers: reading a message, running it, and what it publishes for the next stage."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskstream.errors import InvalidMessage
from taskstream.events import Loaded
from taskstream.handler import Handler
from taskstream.message import Delivery, Message, new_id

from .conftest import MakeApp

STREAM = {"type": "STREAM", "read_stream": {"name": "in", "consumer_group": "g"}}
TRACK = {"request_id": "r-1", "operation_id": "o-1", "request_ts": "t"}
STEP = """
__steps__ = ["step"]
def step(value: In, context: EventContext) -> Out:
    return Out(value.text)
"""


def handler_of(loaded: Loaded) -> Handler:
    (subscription,) = loaded.subscriptions(auto_start=True)
    found = subscription.handler_for("any")
    assert found is not None
    return found


def delivery(name: str, body: bytes, headers: dict[str, Any] | None = None, attempt: int = 1) -> Delivery:
    return Delivery(Message(new_id(), name, body, headers, attempt), "in", "g", "1-0", attempt)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_message_becomes_the_steps_value(make_app: MakeApp, kind: str) -> None:
    source = f"""
    __steps__ = ["step"]
    {kind} step(value: In, context: EventContext) -> dict:
        info = context.stream
        stream = [info.name, info.consumer_group, info.attempt]
        return {{"text": value.text, "track": context.track_ids, "stream": stream}}
    """
    handler = handler_of(make_app({"work": source}, {"work": STREAM}))
    value: Any = handler.run(delivery("In", b'{"text": "ab"}', {**TRACK, "mine": 1}, attempt=2))
    assert value == {"text": "ab", "track": TRACK, "stream": ["in", "g", 2]}
    assert handler.dump(value).startswith(b'{"text":"ab"')
    assert handler.dump(None) == b"null"


def test_a_message_without_tracking(make_app: MakeApp) -> None:
    source = STEP.replace("Out(value.text)", "dict(context.track_ids)")
    assert handler_of(make_app({"work": source}, {"work": STREAM})).run(delivery("In", b'{"text": "a"}')) == {}


def test_the_type_goes_by_the_messages_name(make_app: MakeApp) -> None:
    source = """
    __steps__ = ["first", "second"]
    def first(value: In | Out, context: EventContext) -> str:
        return type(value).__name__
    @dataobject
    class Later:
        text: str
    def second(value: Later | complex, context: EventContext) -> str:
        return "later"
    """
    handler = handler_of(make_app({"work": source}, {"work": STREAM}))
    body = b'{"text": "a"}'
    assert [handler.run(delivery(name, body)) for name in ("In", "Out", "Later")] == ["In", "Out", "later"]
    with pytest.raises(InvalidMessage, match="takes In, Out, Later, not a 'Other'"):
        handler.run(delivery("Other", body))


def test_an_unknown_name_is_tried_as_the_only_type(make_app: MakeApp) -> None:
    handler = handler_of(make_app({"work": STEP}, {"work": STREAM}))
    value: Any = handler.run(delivery("FromElsewhere", b'{"text": "ab"}'))
    assert value.text == "ab"


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"{}", b'{"text": 1}', b"\xff", b"[" * 100_000])
def test_a_payload_that_does_not_fit_is_an_invalid_message(make_app: MakeApp, body: bytes) -> None:
    handler = handler_of(make_app({"work": STEP}, {"work": STREAM}))
    with pytest.raises(InvalidMessage) as caught:
        handler.run(delivery("In", body))
    assert "work: In: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("annotation", "body", "value"), [("Any", b'{"a": [1]}', {"a": [1]}), ("int", b"5", 5)])
def test_payloads_that_are_no_dataobjects(make_app: MakeApp, annotation: str, body: bytes, value: object) -> None:
    source = f'__steps__ = ["step"]\ndef step(value: {annotation}, context): return value'
    assert handler_of(make_app({"work": source}, {"work": STREAM})).run(delivery("x", body)) == value


def test_the_next_stage_gets_what_was_returned(make_app: MakeApp) -> None:
    handler = handler_of(make_app({"work": STEP}, {"work": {**STREAM, "write_stream": {"name": "next"}}}))
    parent = delivery("In", b'{"text": "ab"}', TRACK)
    value = handler.run(parent)
    (first,) = handler.successors(parent, value)
    assert (first.stream, first.message.name, first.message.body) == ("next", "Out", b'{"text":"ab"}')
    assert first.message.headers == TRACK
    # A repeated run publishes the same id; another message another one.
    assert handler.successors(parent, value)[0].message.id == first.message.id
    assert handler.successors(delivery("In", b"{}"), value)[0].message.id != first.message.id


def test_a_replay_publishes_anew(make_app: MakeApp) -> None:
    """Within a replay, and its retries, the id is one; another replay and the first run have others."""
    handler = handler_of(make_app({"work": STEP}, {"work": {**STREAM, "write_stream": {"name": "next"}}}))
    original, found = delivery("In", b'{"text": "ab"}', TRACK), []
    for headers in (TRACK, {**TRACK, "ts-replay": "x"}, {**TRACK, "ts-replay": "x"}, {**TRACK, "ts-replay": "y"}):
        message = msgspec.structs.replace(original.message, headers=headers)
        parent = msgspec.structs.replace(original, message=message)
        (next_one,) = handler.successors(parent, handler.run(parent))
        assert next_one.message.headers == TRACK
        found.append(next_one.message.id)
    assert found[1] == found[2] and len(set(found)) == 3


def test_the_next_stage_gets_nothing_that_concerns_this_message_alone(make_app: MakeApp) -> None:
    handler = handler_of(make_app({"work": STEP}, {"work": {**STREAM, "write_stream": {"name": "next"}}}))
    for own in ({}, TRACK, {"mine": 1}):
        parent = delivery("In", b'{"text": "ab"}', {**own, "ts-history": [{"type": "E"}], "ts-unknown": 3})
        (found,) = handler.successors(parent, handler.run(parent))
        assert found.message.headers == (own or None)


def test_the_next_stage_has_a_limit_unless_it_is_this_one(make_app: MakeApp) -> None:
    parent = delivery("In", b'{"text": "ab"}')
    for stream, limit in (("next", 5), ("in", None)):
        handler = handler_of(
            make_app({"work": STEP}, {"work": {**STREAM, "write_stream": {"name": stream, "max_length": 5}}})
        )
        (found,) = handler.successors(parent, handler.run(parent))
        assert (found.stream, found.max_length) == (stream, limit)


def test_two_groups_publish_messages_of_their_own(make_app: MakeApp) -> None:
    other = {"type": "STREAM", "read_stream": {"name": "in", "consumer_group": "h"}, "write_stream": {"name": "next"}}
    loaded = make_app({"a": STEP, "b": STEP}, {"a": {**STREAM, "write_stream": {"name": "next"}}, "b": other})
    parent = delivery("In", b'{"text": "ab"}')
    ids = set()
    for subscription in loaded.subscriptions(True):
        assert subscription.default is not None
        ids.add(subscription.default.successors(parent, subscription.default.run(parent))[0].message.id)
    assert len(ids) == 2


def test_nothing_is_published_for_none_or_without_a_stream(make_app: MakeApp) -> None:
    parent = delivery("In", b"{}")
    without = handler_of(make_app({"work": STEP}, {"work": STREAM}))
    assert without.successors(parent, object()) == ()
    loaded = make_app({"work": STEP}, {"work": {**STREAM, "write_stream": {"name": "next"}}})
    assert handler_of(loaded).successors(parent, None) == ()


def test_what_cannot_be_sent_is_the_handlers_mistake(make_app: MakeApp) -> None:
    handler = handler_of(make_app({"work": STEP}, {"work": {**STREAM, "write_stream": {"name": "next"}}}))
    with pytest.raises(TypeError, match="work returned what cannot be sent"):
        handler.successors(delivery("In", b"{}"), object())
    with pytest.raises(TypeError, match="work returned what cannot be sent"):
        handler.dump(object())


def test_init_is_the_handlers_start(make_app: MakeApp) -> None:
    source = (
        STEP.replace("Out(value.text)", "list(ran)")
        + """
ran = []
async def __init_event__(context):
    await asyncio.sleep(0)
    ran.append(context.env["a"])
"""
    )
    handler = handler_of(make_app({"work": source}, {"work": STREAM}, env={"a": 1}))
    assert handler.start is not None
    handler.start()
    handler.start()
    assert handler.run(delivery("In", b'{"text": "a"}')) == [1]
