"""Eager mode: whatever is sent is run at once, before the call that sends it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from taskstream.app.core import Taskstream
from taskstream.app.result import AsyncResult
from taskstream.broker import Envelope
from taskstream.testing.worker import Worker, in_memory


@contextlib.contextmanager
def eager(app: Taskstream, *, propagate: bool = False) -> Iterator[Worker]:
    """``delay()`` and the like of ``app`` run the task here and now, and all that follows from it.

    Arguments travel as they do to a worker, so what does not fit is refused and what comes back are copies. Retries
    and delays happen at once; workflows are through when their start returns. With ``propagate`` a call raises what
    its task raised in the end; without, its handle's ``get()`` raises TaskFailed, as always.
    """
    with in_memory(app) as worker:
        send, send_many = app.send, app.send_many

        def work() -> None:
            known = set(worker.errors)
            worker.drain()
            failed = [error for message_id, error in worker.errors.items() if message_id not in known]
            if propagate and failed:
                raise failed[0]

        def send_now(envelope: Envelope) -> str:
            found = send(envelope)
            work()
            return found

        def send_many_now(items: Sequence[Envelope]) -> list[AsyncResult[Any]]:
            handles = send_many(items)
            work()
            return handles

        # On the instance, as hooks around sending are.
        before: dict[str, Any] = {name: vars(app)[name] for name in ("send", "send_many") if name in vars(app)}
        vars(app).update({"send": send_now, "send_many": send_many_now})
        try:
            yield worker
        finally:
            del app.send, app.send_many
            vars(app).update(before)
