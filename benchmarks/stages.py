"""What each stage of a no-op call costs by itself, one after the other, in one process without greenlets.

    python -m benchmarks.stages [--count 20000] [--batch 100] [--rounds 5]

encode    arguments checked, made JSON, the message's fields
publish   the XADDs of a batch in one round trip, with their replies
read      XREADGROUP of a batch
decode    fields to a message and its delivery
dispatch  the message's arguments decoded and checked, the function called
outcome   the outcomes of a batch written to SQLite (checkpoint)
ack       the fenced commit of a batch

µs of this process' CPU for each message, and of the server's. Waiting for the server is no CPU; what the worker adds
around the stages (its greenlets, marks, queues) is the difference to the CPU that ``benchmarks.scaling`` tells. Starts
its own Valkey.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import redis

from benchmarks import apps
from benchmarks.harness import Column, Figures, parser, server, server_cpu_s
from taskstream.broker import Broker
from taskstream.broker.group import Batch, ConsumerGroup, Entry
from taskstream.connection import Profile
from taskstream.link import Link
from taskstream.message import Delivery, Message, fields_of, from_fields, new_id
from taskstream.results import SUCCESS, Outcome, open_store

STAGES = ("encode", "publish", "read", "decode", "dispatch", "outcome", "ack")


def outcome(delivery: Delivery, now_ms: int) -> Outcome:
    """As a worker makes it of a call without a value."""
    return Outcome(
        id=delivery.message.id,
        group=delivery.group,
        handler=delivery.message.name,
        state=SUCCESS,
        delivery=delivery.number,
        attempts=1,
        sent_ms=now_ms,
        started_ms=now_ms,
        finished_ms=now_ms,
        worker="host-4711-0a1b2c3d",
        value=msgspec.Raw(b"null"),
    )


class Stages:
    """A queue, one consumer of it, and the time that each stage takes."""

    def __init__(self, url: str, folder: Path) -> None:
        self.client = redis.Redis.from_url(url)
        self.app = apps.producer(apps.task_text(), url)
        (self.subscription,) = self.app.app.subscriptions()
        self.broker = Broker(url)
        self.link = Link(url, Profile(socket_timeout=30.0))
        store = open_store(f"file://{folder / 'results'}", base=folder, fsync="checkpoint")
        assert store is not None
        self.store = store
        self.spent: dict[str, tuple[float, float]] = {}

    @contextmanager
    def timed(self, stage: str, count: int) -> Iterator[None]:
        """Note the CPU of what is done meanwhile."""
        gc.collect()
        gc.disable()  # a worker does not hold so many at once
        server_s, cpu = server_cpu_s(self.client), time.process_time()
        yield
        own = time.process_time() - cpu
        gc.enable()
        self.spent[stage] = (own * 1e6 / count, (server_cpu_s(self.client) - server_s) * 1e6 / count)

    def run(self, count: int, size: int) -> None:
        """All stages for ``count`` calls, ``size`` in a batch."""
        self.client.flushall()
        group = ConsumerGroup(apps.QUEUE, self.subscription.group, new_id(), 600_000)
        group.register(self.link.call)
        with self.timed("encode", count):
            messages = [self.app.noop.message((), {"id": n, "text": "hello world"}) for n in range(count)]
            for message in messages:
                fields_of(message)
        self.publish(messages, size)
        reads: list[list[Entry]] = []
        with self.timed("read", count):
            while entries := group.read(self.link.call, size, None):
                reads.append(entries)
        with self.timed("decode", count):
            deliveries = [self.delivery(entry) for entries in reads for entry in entries]
        handler = self.subscription.handler_for("bench.noop")
        assert handler is not None
        with self.timed("dispatch", count):
            for delivery in deliveries:
                handler.run(delivery)
        now_ms = time.time_ns() // 1_000_000
        with self.timed("outcome", count):
            for start in range(0, count, size):
                self.store.write([outcome(delivery, now_ms) for delivery in deliveries[start : start + size]])
        with self.timed("ack", count):
            for entries in reads:
                batch = Batch()
                for entry in entries:
                    batch.ack(entry.from_again, entry.entry_id)
                won, _ = group.commit(self.link.call, batch, "")
                assert won

    def publish(self, messages: list[Message], size: int) -> None:
        """Send them."""
        with self.timed("publish", len(messages)):
            for start in range(0, len(messages), size):
                self.broker.publish_many([(apps.QUEUE, message) for message in messages[start : start + size]])

    def delivery(self, entry: Entry) -> Delivery:
        """What a worker makes of an entry."""
        stream, group = self.subscription.stream, self.subscription.group
        return Delivery(from_fields(entry.fields), stream, group, entry.entry_id, entry.times, entry.from_again)

    def close(self) -> None:
        """Let go of connections and files."""
        self.store.close()
        self.app.app.close()
        self.broker.close()
        self.client.close()


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=20_000, batch=100, rounds=5).parse_args()
    figures = Figures(
        ["stage"], [Column("cpu_us", "CPU µs each", 2), Column("server_us", "server CPU µs each", 2)], options.out
    )
    with tempfile.TemporaryDirectory() as folder, server() as url:
        stages = Stages(url, Path(folder))
        stages.run(options.batch, options.batch)  # warms up
        for _ in range(options.rounds):
            stages.run(options.count, options.batch)
            for stage in STAGES:
                own, servers = stages.spent[stage]
                figures.add({"stage": stage, "batch": options.batch, "cpu_us": own, "server_us": servers})
        stages.close()
    figures.show()
    print(f"\nAll together: {sum(found['cpu_us'] for _, found in figures.medians()):.1f} µs a message")


if __name__ == "__main__":
    main()
