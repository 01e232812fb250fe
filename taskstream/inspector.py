"""Reads the state of streams, groups and workers, for listing commands and the state page. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from taskstream.broker import Broker


class GroupView(msgspec.Struct, frozen=True):
    """One consumer group of a stream, in messages.

    ``label`` is the event or queue it belongs to, None where no worker has registered it. ``waiting`` counts unread
    messages (up to 10,000 where Redis itself cannot tell). ``state`` is what holds (started, stopped): ``choice``, the
    operator's, or where nobody chose (None) what the workers say they do, None where there is no worker either.
    ``oldest_age_s`` is how long (s) the oldest waiting or held message has been in the stream.
    """

    name: str
    label: str | None
    waiting: int
    held: int
    delayed: int
    dead: int
    consumers: int
    state: str | None
    choice: str | None
    oldest_age_s: float | None


class StreamView(msgspec.Struct, frozen=True):
    """One stream: its entries and groups."""

    name: str
    length: int
    groups: list[GroupView]


class SubscriptionView(msgspec.Struct, frozen=True):
    """What one worker process does for one event or queue: counts since it started, ``rate`` in messages/s."""

    label: str
    stream: str
    group: str
    state: str
    consumed: int = 0
    errors: int = 0
    rate: float = 0.0
    avg_ms: float = 0.0


class WorkerView(msgspec.Struct, frozen=True):
    """One live worker process, as it described itself. ``rss`` in bytes."""

    name: str
    host: str
    pid: int
    started_ms: int
    state: str
    concurrency: int
    reason: str | None = None
    running: int = 0
    processed: int = 0
    failed: int = 0
    retried: int = 0
    subscriptions: list[SubscriptionView] = []
    rss: int = 0


class Overview(msgspec.Struct, frozen=True):
    """Everything at one look. ``at_ms`` is Redis' clock (ms since the epoch) when it was taken."""

    at_ms: int
    streams: list[StreamView]
    workers: list[WorkerView]


def overview(broker: Broker, extra_streams: Iterable[str] = ()) -> Overview:
    """Look at every stream that workers registered, and at ``extra_streams`` (names), which may not exist yet.

    Raises BrokerUnavailable.
    """
    now_ms = broker.now_ms()
    registered = broker.subscriptions()
    labels = {(info.stream, info.group): label for label, info in registered.items()}
    names = {info.stream for info in registered.values()} | set(extra_streams)
    live = workers(broker)
    reported = {(one.stream, one.group): one.state for worker in live for one in worker.subscriptions}
    return Overview(now_ms, [_stream(broker, name, labels, reported, now_ms) for name in sorted(names)], live)


def workers(broker: Broker) -> list[WorkerView]:
    """The live worker processes, by name. Raises BrokerUnavailable."""
    found = (_worker(info) for info in broker.workers())
    return sorted((worker for worker in found if worker is not None), key=lambda worker: worker.name)


def _stream(
    broker: Broker, name: str, labels: dict[tuple[str, str], str], reported: dict[tuple[str, str], str], now_ms: int
) -> StreamView:
    length, states = broker.stream_state(name)
    groups = [
        GroupView(
            name=group.name,
            label=labels.get((name, group.name)),
            waiting=group.waiting,
            held=group.held,
            delayed=group.delayed,
            dead=group.dead,
            consumers=group.consumers,
            state=group.state or reported.get((name, group.name)),
            choice=group.state,
            oldest_age_s=None if group.oldest_ms is None else max(0.0, (now_ms - group.oldest_ms) / 1000),
        )
        for group in states
    ]
    return StreamView(name, length, groups)


def _worker(info: dict[str, Any]) -> WorkerView | None:
    """None for a description this release cannot read: a pool of another release is no reason to fail."""
    try:
        return msgspec.convert(info, WorkerView)
    except msgspec.ValidationError:
        return None
