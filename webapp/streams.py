"""What becomes of a call as it happens: server-sent events at ``/api/tasks/{id}/events`` (WHATWG HTML, section 9.2).

A stream holds one thread of the server for as long as it is open, so there may be a certain number of them only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from threading import Event
from typing import NamedTuple

import msgspec
from flask import Response, request

from taskstream.errors import ResultUnavailable

from .auth import refuse_foreign
from .errors import RETRY_AFTER_S, Problem
from .held import Held

RETRY_MS = 3_000
"""What a client waits before it connects again."""
HEARTBEAT_S = 5.0
"""A comment after so long a silence: proxies keep the connection, and the server notices that a client has gone."""
LOOK_S = 5.0
"""How often is looked without having been told: the safety net while Redis is away."""
TICK_S = 1.0
LONGEST_S = 600.0
"""How long a stream is kept; a client connects again by itself and goes on where it was."""
PROGRESS_PAUSE_S = 0.05
"""Between two looks, so that a task that tells of its progress all the time costs no more than so many events."""
END = "end"
"""Id of the last event: who has seen it need not come back."""

_encode = msgspec.json.Encoder().encode


class Now(NamedTuple):
    """What is known of a call: ``event`` is its kind (state, progress, result), ``mark`` changes with it."""

    event: str
    mark: str
    record: dict[str, object]


Look = Callable[[], Now]
Watch = Callable[[], AbstractContextManager[Event]]


class Stream:
    """The body of one answer; gives its thread back when it is closed, also if it was never read."""

    def __init__(self, pieces: Generator[bytes, None, None], held: Held) -> None:
        self._pieces = pieces
        self._held = held
        self._open = True

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Called by the server at the end, or when the client has gone."""
        if self._open:
            self._open = False
            self._held.give()
            self._pieces.close()


def stream(look: Look, watch: Watch, held: Held) -> Response:
    """The answer that tells all that ``look`` finds; ``watch`` gives an event that is set when that may have changed.

    Raises Problem: 405 for HEAD, 403 for another site's page, 503 where as many threads are held as may be.
    """
    if request.method == "HEAD":
        raise Problem(405, "use GET", headers={"Allow": "GET, OPTIONS"})
    refuse_foreign(request.environ)
    seen = request.environ.get("HTTP_LAST_EVENT_ID", "")
    if seen == END:
        return Response(status=204)  # tells an EventSource not to connect again
    look()  # what cannot be told at all is an answer of its own
    if not held.take():
        problem = f"{held.limit} requests wait or listen here already, which is as many as may"
        raise Problem(503, problem, headers={"Retry-After": str(RETRY_AFTER_S)})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    body = Stream(_pieces(look, watch, held, seen), held)
    return Response(body, headers=headers, content_type="text/event-stream")


def _pieces(look: Look, watch: Watch, held: Held, seen: str) -> Generator[bytes, None, None]:
    yield f"retry: {RETRY_MS}\n\n".encode()
    spoke = time.monotonic()
    until = spoke + LONGEST_S
    with watch() as changed:
        while not held.stopping and spoke < until:
            changed.clear()
            try:
                now = look()
            except ResultUnavailable as error:
                yield _event("problem", "", {"title": "Service Unavailable", "status": 503, "detail": str(error)})
                return
            if now.mark != seen:
                yield _event(now.event, now.mark, now.record)
                seen, spoke = now.mark, time.monotonic()
                if seen == END:
                    return
                if now.event == "progress":
                    time.sleep(PROGRESS_PAUSE_S)
            looked = time.monotonic()
            while not changed.wait(TICK_S):
                moment = time.monotonic()
                if held.stopping or moment >= until:
                    return
                if moment - spoke >= HEARTBEAT_S:
                    yield b": still here\n\n"
                    spoke = moment
                if moment - looked >= LOOK_S:
                    break


def _event(kind: str, mark: str, data: dict[str, object]) -> bytes:
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), mark.encode(), _encode(data))
