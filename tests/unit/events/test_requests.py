"""POST and GET events in-process: from the bytes of a request to the bytes of its answer."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskstream import logs
from taskstream.errors import BrokerUnavailable, QueueFull, ValidationError
from taskstream.events import EventRequest, EventResponse, Loaded
from taskstream.message import Message

from .conftest import MakeApp

TRACK = {"request_id": "r-1", "operation_id": "o-1", "request_ts": "2026-07-02T16:52:35.946+00:00"}
POST = {"type": "POST", "write_stream": {"name": "out"}}
STEP = """
__steps__ = ["step"]
def step(value: In, context: EventContext) -> Out:
    return Out(value.text * value.count)
"""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger(logs.ROOT)
    before = (root.level, root.propagate, list(root.handlers))
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    yield stream
    root.setLevel(before[0])
    root.propagate = before[1]
    root.handlers[:] = before[2]


def texts_of(log: io.StringIO) -> list[str]:
    return [line.split(" | ")[3] for line in log.getvalue().splitlines()]


Sent = list[tuple[str, Message]]


def ask(
    loaded: Loaded, payload: bytes | None = b"", query: dict[str, list[str]] | None = None, **headers: str
) -> tuple[EventResponse, Sent]:
    sent: Sent = []
    request = EventRequest(payload, query or {}, TRACK, headers)
    return loaded.requests[0].respond(
        request, lambda stream, message, _limit=None: sent.append((stream, message))
    ), sent


def test_a_post_is_validated_published_and_answered(make_app: MakeApp, log: io.StringIO) -> None:
    answer, sent = ask(make_app({"do": STEP}, {"do": POST}), b'{"text": "ab", "count": 2}')

    assert answer == EventResponse(200, {}, b'{"text":"abab"}', "application/json")
    ((stream, message),) = sent
    assert (stream, message.name, message.body, message.headers) == ("out", "Out", b'{"text":"abab"}', TRACK)
    assert (message.attempt, len(message.id)) == (1, 36)
    start, done = log.getvalue().splitlines()
    assert start.endswith(
        "| START | track.request_id=r-1 | track.operation_id=o-1 | track.request_ts=" + TRACK["request_ts"]
    )
    assert " do " in start and "| DONE | response.status=200 | metrics.duration=" in done


def test_none_publishes_nothing(make_app: MakeApp) -> None:
    source = '__steps__ = ["step"]\ndef step(value: In, context) -> Optional[Out]:\n    return None'
    answer, sent = ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')
    assert (answer.status, answer.body, sent) == (200, b'{"do":null}', [])


def test_an_event_without_a_stream_publishes_nothing(make_app: MakeApp) -> None:
    _, sent = ask(make_app({"do": STEP}, {"do": {"type": "POST"}}), b'{"text": "ab"}')
    assert sent == []


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_hooks_shape_request_and_response(make_app: MakeApp, kind: str) -> None:
    source = f"""
    __steps__ = ["step"]
    __api__ = event_api(payload=In, query_args=[("times", int)])

    {kind} __preprocess__(payload: In, context: EventContext, request: PreprocessHook, times: int) -> In:
        assert request.headers["X-Who"] == "me" and request.query_args == {{"times": times}}
        assert request.payload_raw == b'{{"text": "ab"}}'
        return In(payload.text, times)

    {kind} step(value: In, context: EventContext) -> Out:
        assert context.env == {{"a": 1}} and context.track_ids["request_id"] == "r-1" and context.stream is None
        return Out(value.text * value.count)

    {kind} __postprocess__(value: Out, context: EventContext, response: PostprocessHook) -> str:
        response.status = 201
        response.headers["X-One"] = "1"
        response.set_header("X-Two", "2")
        response.set_cookie("seen", "yes")
        response.set_cookie("more", "1", ["Path=/"])
        response.content_type = "text/plain; charset=utf-8"
        return value.text + "é"
    """
    loaded = make_app({"do": source}, {"do": POST}, env={"a": 1})
    answer, sent = ask(loaded, b'{"text": "ab"}', {"times": ["3"]}, **{"X-Who": "me"})
    cookies = ["seen=yes; HttpOnly; SameSite=Strict", "more=1; Path=/"]
    headers = {"X-One": "1", "X-Two": "2", "Set-Cookie": cookies}
    assert answer == EventResponse(201, headers, "abababé".encode(), "text/plain; charset=utf-8")
    assert sent[0][1].body == b'{"text":"ababab"}'


def test_preprocess_may_refuse(make_app: MakeApp) -> None:
    source = (
        STEP
        + """
def __preprocess__(payload: In, context, request):
    request.set_status(403)
    return "not you"
"""
    )
    answer, sent = ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')
    assert (answer.status, answer.body, sent) == (403, b'{"do":"not you"}', [])


@pytest.mark.parametrize(
    ("returned", "body"),
    [
        ('"text"', b'{"do":"text"}'),
        ("None", b'{"do":null}'),
        ("5", b'{"do":5}'),
        ("[Out('a')]", b'[{"text":"a"}]'),
        ("{'a': Out('b')}", b'{"a":{"text":"b"}}'),
        ("b'raw'", b"raw"),
    ],
)
def test_what_postprocess_may_return(make_app: MakeApp, returned: str, body: bytes) -> None:
    source = STEP + f"def __postprocess__(value, context, response): return {returned}"
    assert ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')[0].body == body


def test_a_status_without_body_has_none(make_app: MakeApp) -> None:
    source = STEP + "def __postprocess__(value, context, response):\n    response.status = 204"
    answer, _ = ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')
    assert (answer.status, answer.body) == (204, b"")


def test_postprocess_runs_after_publishing(make_app: MakeApp) -> None:
    source = STEP + "def __postprocess__(value, context, response): value.text = 'changed'; return value"
    answer, sent = ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')
    assert (answer.body, sent[0][1].body) == (b'{"text":"changed"}', b'{"text":"ab"}')


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "_schema"),
        (b"{", "_schema"),
        (b"\xff\xfe", "_schema"),
        (b"null", "_schema"),
        (b"[]", "_schema"),
        (b"{}", "text"),
        (b'{"text": 1}', "text"),
        (b'{"text": "a", "more": 1}', "more"),
    ],
)
def test_a_bad_payload_is_refused_in_one_log_line(
    make_app: MakeApp, log: io.StringIO, payload: bytes, field: str
) -> None:
    loaded = make_app({"do": STEP}, {"do": POST})
    with pytest.raises(ValidationError) as caught:
        ask(loaded, payload)
    assert list(caught.value.errors) == [field]
    (line,) = log.getvalue().splitlines()
    assert "| WARNING |" in line and "| FAILED |" in line
    assert "track.request_id=r-1" in line and "response.status=400" in line and "Traceback" not in line


QUERY = """
class Colour(enum.Enum):
    RED = "red"
class Level(enum.Enum):
    LOW = 1
__steps__ = ["step"]
__api__ = event_api(query_args=[
    ("n", int), ("share", Optional[float]), ("flag", Optional[bool]), ("day", Optional[datetime.date], "which day"),
    ("colour", Optional[Colour]), ("level", Optional[Level]), ("ids", Optional[list[int]]), "text",
])
def step(payload: None, context: EventContext, *, n, share, flag, day, colour, level, ids, text="none") -> dict:
    return {"all": [n, share, flag, day, colour, level, ids, text]}
"""


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ({"n": ["-5"]}, [-5, None, None, None, None, None, None, "none"]),
        (
            {"n": ["1"], "share": ["2"], "flag": ["true"], "day": ["2020-01-02"], "colour": ["red"], "level": ["1"]}
            | {"ids": ["1", "2"], "text": [""]},
            [1, 2.0, True, "2020-01-02", "red", 1, [1, 2], ""],
        ),
    ],
)
def test_query_arguments_have_their_types(make_app: MakeApp, query: dict[str, list[str]], values: list[Any]) -> None:
    answer, _ = ask(make_app({"do": QUERY}, {"do": {"type": "GET"}}), None, query)
    assert json.loads(answer.body) == {"all": values}


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({}, "n"),
        ({"n": [""]}, "n"),
        ({"n": ["1.0"]}, "n"),
        ({"n": ["٣"]}, "n"),
        ({"n": ["9" * 30]}, "n"),
        ({"n": ["9" * 19]}, "n"),
        ({"n": ["1", "2"]}, "n"),
        ({"n": ["1"], "other": ["1"]}, "other"),
        ({"n": ["1"], "share": ["nan"]}, "share"),
        ({"n": ["1"], "share": ["1e999"]}, "share"),
        ({"n": ["1"], "share": ["9" * 400]}, "share"),
        ({"n": ["1"], "flag": ["yes"]}, "flag"),
        ({"n": ["1"], "day": ["tomorrow"]}, "day"),
        ({"n": ["1"], "colour": ["RED"]}, "colour"),
        ({"n": ["1"], "level": ["LOW"]}, "level"),
        ({"n": ["1"], "ids": ["1", "x"]}, "ids"),
        ({"n": ["1"], "text": ["\ud800"]}, "text"),
    ],
)
def test_a_bad_query_argument_is_named(make_app: MakeApp, query: dict[str, list[str]], name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ask(make_app({"do": QUERY}, {"do": {"type": "GET"}}), None, query)
    assert list(caught.value.errors) == [name]


@given(st.dictionaries(st.sampled_from(["n", "share", "flag", "day", "ids", "zzz"]), st.lists(st.text(), max_size=2)))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_query_is_answered_or_refused(query_app: Loaded, query: dict[str, list[str]]) -> None:
    try:
        ask(query_app, None, query)
    except ValidationError as error:
        assert error.errors


@pytest.fixture
def query_app(make_app: MakeApp) -> Loaded:
    return make_app({"do": QUERY}, {"do": {"type": "GET"}})


@pytest.mark.parametrize(
    ("error", "status", "level"),
    [
        (BrokerUnavailable("gone"), 503, "WARNING"),
        (QueueFull("full"), 503, "WARNING"),
        (RuntimeError("bug"), 500, "ERROR"),
    ],
)
def test_a_failed_publish_comes_out_and_is_logged(
    make_app: MakeApp, log: io.StringIO, error: Exception, status: int, level: str
) -> None:
    def publish(stream: str, message: Message, max_length: int | None = None, /) -> None:
        raise error

    event = make_app({"do": STEP}, {"do": POST}).requests[0]
    with pytest.raises(type(error)):
        event.respond(EventRequest(b'{"text": "a"}', {}, TRACK, {}), publish)
    assert texts_of(log) == ["START", "FAILED"]
    failed = log.getvalue().splitlines()[1]
    assert f"| {level} |" in failed and f"response.status={status}" in failed and "track.request_id=r-1" in failed
    assert ("error.traceback=" in failed) == (status == 500)


@pytest.mark.parametrize(
    "source",
    [
        STEP.replace("Out(value.text * value.count)", "Out(5)"),
        STEP.replace("Out(value.text * value.count)", "object()"),
        STEP + "def __postprocess__(value, context, response): return object()",
        STEP + "def __postprocess__(value, context, response): return float('nan')",
        STEP + "def __postprocess__(value, context, response): response.status = 99",
        STEP + "def __postprocess__(value, context, response): response.status = '200'",
        STEP + "def __postprocess__(value, context, response): response.set_header('X', 'a\\r\\nSet-Cookie: b')",
        STEP + "def __postprocess__(value, context, response): response.set_header('a b', 'x')",
        STEP + "def __postprocess__(value, context, response): response.headers['X'] = 5",
        STEP + "def __postprocess__(value, context, response): response.content_type = 'a\\nb'",
    ],
)
def test_what_a_handler_cannot_have_meant_is_its_mistake_not_the_clients(make_app: MakeApp, source: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')


def test_a_step_may_refuse_with_a_validation_error(make_app: MakeApp) -> None:
    source = STEP.replace("return Out", "raise ValidationError('no', {'text': ['no']})\n    return Out")
    with pytest.raises(ValidationError):
        ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_init_runs_once_before_the_first_request(make_app: MakeApp, kind: str) -> None:
    source = (
        STEP
        + f"""
ran = []
{kind} __init_event__(context):
    assert context.event_name == "do"
    ran.append(1)
def __postprocess__(value, context, response):
    return len(ran)
"""
    )
    loaded = make_app({"do": source}, {"do": POST})
    assert [ask(loaded, b'{"text": "a"}')[0].body for _ in range(3)] == [b'{"do":1}'] * 3
    loaded.requests[0].start()
    assert ask(loaded, b'{"text": "a"}')[0].body == b'{"do":1}'


def test_init_runs_once_however_many_come_at_once(make_app: MakeApp) -> None:
    source = (
        STEP
        + """
import time
ran = []
def __init_event__(context):
    time.sleep(0.05)
    ran.append(1)
def __postprocess__(value, context, response):
    return len(ran)
"""
    )
    loaded = make_app({"do": source}, {"do": POST})
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda: bodies.append(ask(loaded, b'{"text": "a"}')[0].body)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert bodies == [b'{"do":1}'] * 8


def test_a_failed_init_is_tried_again(make_app: MakeApp) -> None:
    source = (
        STEP
        + """
ran = []
def __init_event__(context):
    ran.append(1)
    if len(ran) == 1:
        raise OSError("not yet")
"""
    )
    loaded = make_app({"do": source}, {"do": POST})
    with pytest.raises(OSError, match="not yet"):
        ask(loaded, b'{"text": "a"}')
    assert ask(loaded, b'{"text": "a"}')[0].status == 200


def test_the_authors_logger_says_event_and_request(make_app: MakeApp, log: io.StringIO) -> None:
    source = """
    logger, extra = app_extra_logger()
    __steps__ = ["step"]
    def step(value: In, context: EventContext) -> Out:
        logger.debug(context, "unseen")
        logger.info(context, "Received data", extra=extra(length=len(value.text)))
        logger.warning(context, "careful", extra=extra(a="x | y"), exc=None)
        return Out("a")
    """
    ask(make_app({"do": source}, {"do": POST}), b'{"text": "ab"}')
    assert texts_of(log) == ["START", "Received data", "careful", "DONE"]
    line = log.getvalue().splitlines()[1]
    assert " 1.0 do " in line
    assert "| Received data | extra.length=2 | track.request_id=r-1 | track.operation_id=o-1 |" in line


@pytest.mark.parametrize("limit", [None, 7])
def test_a_limit_of_the_stream_goes_with_the_message(make_app: MakeApp, limit: int | None) -> None:
    stream = {"name": "out"} | ({"max_length": limit} if limit else {})
    event = make_app({"do": STEP}, {"do": {**POST, "write_stream": stream}}).requests[0]
    seen: list[int | None] = []
    request = EventRequest(b'{"text": "a"}', {}, TRACK, {})
    event.respond(request, lambda stream, message, limit=None: seen.append(limit))
    assert seen == [limit]
