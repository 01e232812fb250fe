"""Dead letters for tests, written as the worker writes them."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

from taskstream import keys
from taskstream.broker import Broker
from taskstream.handler import Handler, Settings
from taskstream.message import Delivery, Message
from taskstream.results.base import Failure
from taskstream_worker import outcomes
from taskstream_worker.membership import Job, Membership

STREAM, GROUP = "jobs", "taskstream"
DEAD, LETTERS = keys.dead(STREAM, GROUP), keys.letters(STREAM, GROUP)
BODY = b'{"args":["\xc3\xbc"]}'


def letter_json(
    message: Message, error: str = "ValueError", text: str = "why", *, number: int = 4, handler: str | None = "jobs.add"
) -> str:
    """What a worker keeps of ``message``, which died of ``error`` at its hand-out ``number``."""
    found = None
    if handler is not None:
        found = Handler(handler, lambda delivery: None, "jobs", "-", logging.INFO, Settings())
    delivery = Delivery(message, STREAM, GROUP, "1790000000000-0", number)
    job = Job(cast(Membership, None), delivery, found)
    outcomes.bury(job, Failure(error, text, f"Traceback\n  {error}: {text}"), "host.1.1", False)
    return job.payload


def unreadable_json(entry: str, fields: list[bytes]) -> str:
    """What a worker keeps of an entry that is no message."""
    job = Job(cast(Membership, None), Delivery(Message(f"entry-{entry}", "", b""), STREAM, GROUP, entry, 1), None)
    outcomes.bury_unreadable(job, fields, "field 'v' is missing", "host.1.1")
    return job.payload


def bury(broker: Broker, letters: dict[str, str], *, ago_s: float = 60.0, stream: str = STREAM) -> None:
    """Put letters (id → JSON) where dead ones are; all died ``ago_s`` seconds ago, in one millisecond."""
    at = int(time.time() * 1000 - ago_s * 1000)
    pipeline = broker.client.pipeline(transaction=False)
    for message_id, text in letters.items():
        pipeline.zadd(keys.dead(stream, GROUP), {message_id: at})
        pipeline.hset(keys.letters(stream, GROUP), message_id, text)
    pipeline.execute()


def bury_many(broker: Broker, count: int, *, ago_s: float = 60.0, **more: Any) -> list[str]:
    """That many calls of ``jobs.add`` that died, a thousand in each millisecond; their ids, the oldest first."""
    template = letter_json(Message("THE-ID", "jobs.add", BODY, attempt=4), **more)
    found = []
    for start in range(0, count, 1000):
        ids = [f"m{number:06d}" for number in range(start, min(count, start + 1000))]
        bury(
            broker,
            {one: template.replace("THE-ID", one) for one in ids},
            ago_s=ago_s - start / 1_000_000,
        )
        found += ids
    return found


def again(broker: Broker, stream: str = STREAM) -> list[dict[str, str]]:
    """The entries of the group's own stream, as mappings."""
    rows: Any = broker.client.xrange(keys.again(stream, GROUP))
    return [{key.decode(): value.decode(errors="backslashreplace") for key, value in row.items()} for _, row in rows]
