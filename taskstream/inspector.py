"""Reads the state of streams, groups and workers, for listing commands and the state page. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from taskstream.errors import WrongKind

if TYPE_CHECKING:
    from taskstream.broker import Broker
    from taskstream.broker.broker import SubscriptionInfo


class GroupView(msgspec.Struct, frozen=True):
    """One consumer group of a stream, in messages.

    ``label`` is the event or queue it belongs to, None where no worker has registered it. ``waiting`` counts unread
    messages (up to 10,000 where Redis itself cannot tell). ``state`` is what holds (started, stopped): ``choice``, the
    operator's, or where nobody chose (None) what the workers say they do, None where there is no worker either.
    ``oldest_age_s`` is how long (s) the oldest waiting or held message has been in the stream; of one that was tried
    or given back, how long ago it was sent. ``problems``: its keys that hold another kind of value, so that what they
    should say is 0 or None here.
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
    problems: list[str] = []


class StreamView(msgspec.Struct, frozen=True):
    """One stream: its entries and groups. ``problem`` says why there is nothing to say about it, None otherwise."""

    name: str
    length: int
    groups: list[GroupView]
    problem: str | None = None


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
    """Everything at one look. ``at_ms`` is Redis' clock (ms since the epoch) when it was taken. ``problems``: keys that
    hold another kind of value, so that what they should say is missing; those of streams and groups are in there, too.
    """

    at_ms: int
    streams: list[StreamView]
    workers: list[WorkerView]
    problems: list[str] = []


def overview(broker: Broker, extra_streams: Iterable[str] = ()) -> Overview:
    """Look at every stream that workers registered, and at ``extra_streams`` (names), which may not exist yet.

    Raises BrokerUnavailable; ConfigError where the server refuses to be looked at.
    """
    now_ms = broker.now_ms()
    problems: list[str] = []
    registered: dict[str, SubscriptionInfo] = {}
    live: list[WorkerView] = []
    try:
        registered = broker.subscriptions()
    except WrongKind as error:
        problems.append(str(error))
    try:
        live = workers(broker)
    except WrongKind as error:
        problems.append(str(error))
    labels = {(info.stream, info.group): label for label, info in registered.items()}
    names = {info.stream for info in registered.values()} | set(extra_streams)
    reported = {(one.stream, one.group): one.state for worker in live for one in worker.subscriptions}
    streams = [_stream(broker, name, labels, reported, now_ms) for name in sorted(names)]
    for stream in streams:
        problems += [stream.problem] if stream.problem is not None else []
        problems += [problem for group in stream.groups for problem in group.problems]
    return Overview(now_ms, streams, live, problems)


def workers(broker: Broker) -> list[WorkerView]:
    """The live worker processes, by name. Raises BrokerUnavailable."""
    found = (_worker(info) for info in broker.workers())
    return sorted((worker for worker in found if worker is not None), key=lambda worker: worker.name)


def _stream(
    broker: Broker, name: str, labels: dict[tuple[str, str], str], reported: dict[tuple[str, str], str], now_ms: int
) -> StreamView:
    try:
        length, states = broker.stream_state(name)
    except WrongKind as error:
        return StreamView(name, 0, [], str(error))
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
            problems=list(group.problems),
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
