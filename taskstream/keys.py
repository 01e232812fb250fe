"""The name of every Redis key and channel Taskstream uses. No other module spells one out.

A stream's Redis key is exactly its name. Whatever belongs to a stream carries the name in braces, which
Redis Cluster takes as the hash tag, so that all of a stream's keys share its slot and one script can
reach them together. Group and stream names follow NAME_PATTERN, so the parts cannot run into one another.
"""

from __future__ import annotations

import re

from taskstream.errors import ConfigError

NAME_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,200}")
"""What names of apps, streams, queues, groups, events and tasks may look like."""

RESERVED_PREFIX = "ts:"

GATHER = "ts:gather"
"""Name of the message by which a workflow goes on from many values to many calls. No task can be called so."""


def check_name(kind: str, name: object) -> str:
    """Return ``name`` if it is a valid name; ``kind`` says whose it is in the error.

    Raises ConfigError.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or name.startswith(RESERVED_PREFIX):
        raise ConfigError(
            f"{kind} {name!r} is not a valid name: use letters, digits and . _ : - "
            f"(at most 200), not starting with {RESERVED_PREFIX!r}"
        )
    return name


def again(stream: str, group: str) -> str:
    """Stream that only ``group`` reads: its retries and give-backs."""
    return f"ts:{{{stream}}}:again:{group}"


def delayed(stream: str, group: str) -> str:
    """Sorted set: due time (ms, Redis' clock) → the message's fields as a JSON array."""
    return f"ts:{{{stream}}}:delayed:{group}"


def ranked(stream: str, group: str) -> str:
    """Sorted set: priority and when it was sent (see scripts/_ranking.lua) → the message's fields as a JSON array."""
    return f"ts:{{{stream}}}:ranked:{group}"


def dead(stream: str, group: str) -> str:
    """Sorted set: time of death (ms, Redis' clock) → id of a dead letter."""
    return f"ts:{{{stream}}}:dead:{group}"


def letters(stream: str, group: str) -> str:
    """Hash: id of a dead letter → the letter as JSON (fields, error, times)."""
    return f"ts:{{{stream}}}:letters:{group}"


def deaths(stream: str, group: str) -> str:
    """Hash: message id → how many worker processes died while it had started."""
    return f"ts:{{{stream}}}:deaths:{group}"


def leases(stream: str, group: str) -> str:
    """Sorted set: consumer by its lease: the expiry (ms, Redis' clock), or below 2 once given up or taken."""
    return f"ts:{{{stream}}}:leases:{group}"


def control(stream: str, group: str) -> str:
    """Hash of what all workers of a group are to know: the operator's choice in ``state`` (started, stopped), in
    ``revokes`` how often something was revoked, in ``version`` how often either changed."""
    return f"ts:{{{stream}}}:control:{group}"


def retention(stream: str) -> str:
    """Hash with a TTL: group → how long (ms) it wants what is done to stay in the stream, where it wants that."""
    return f"ts:{{{stream}}}:retention"


def watched(stream: str) -> str:
    """String with a TTL that exists while somebody waits for results of this stream."""
    return f"ts:{{{stream}}}:watched"


def done_channel(stream: str) -> str:
    """Pub/sub channel: ids of finished messages of this stream, separated by spaces."""
    return f"ts:{{{stream}}}:done"


def published(stream: str, unique: str) -> str:
    """String with a TTL: the message id published under a key of its sender's choice."""
    return f"ts:{{{stream}}}:published:{unique}"


def unique_id(message_id: str) -> str:
    """What ``published`` takes for a message that is published once under its own id."""
    return f"id:{message_id}"


def unique_key(text: str) -> str:
    """What ``published`` takes for an idempotency key; never the same as for an id."""
    return f"key:{text}"


def unique_failure(message_id: str) -> str:
    """What ``published`` takes for the news that what a message was to follow has failed."""
    return f"failed:{message_id}"


def chord(stream: str, callback_id: str) -> str:
    """Hash with a TTL: ``total``, ``then``, ``headers``, and the value of each member that is done by its place.

    ``stream`` is where the callback goes.
    """
    return f"ts:{{{stream}}}:chord:{callback_id}"


def unique_call(digest: str) -> str:
    """What ``published`` takes for a call of a unique task, for as long as that waits or runs."""
    return f"task:{digest}"


def is_call(unique: str) -> bool:
    """Whether ``unique`` is of a call of a unique task, and no key of a sender's."""
    return unique.startswith("task:")


def order(stream: str, ordering_key: str) -> str:
    """List: the id of the message of an ordering key whose turn it is, then those that wait, as JSON arrays of fields.

    There while there is one. Of a task queue, which has one group only.
    """
    return f"ts:{{{stream}}}:order:{ordering_key}"


def ordered(stream: str) -> str:
    """Hash: key of a list of ``order`` → how many messages wait in it for their turn, if any; all under ``""``."""
    return f"ts:{{{stream}}}:ordered"


def slots(stream: str, limit: str) -> str:
    """Hash: id of a message that has a slot of a concurrency limit → ``1`` (stream) or ``2`` (again), and its entry id.

    ``limit`` is the name of the limit (taskstream.limits). Emptied as they end; with a TTL for accidents.
    """
    return f"ts:{{{stream}}}:slots:{limit}"


def parked(stream: str, limit: str) -> str:
    """List: messages that wait for a slot, each as a JSON array of fields. There while there are some."""
    return f"ts:{{{stream}}}:parked:{limit}"


def parking(stream: str) -> str:
    """Hash: name of a limit for which messages are parked → how many slots it has. There while there are some."""
    return f"ts:{{{stream}}}:parking"


def rate(stream: str, limit: str) -> str:
    """Hash with a TTL: ``last`` start and ``tail``, the next time that nobody was told (us since the epoch)."""
    return f"ts:{{{stream}}}:rate:{limit}"


def ticks(stream: str) -> str:
    """Hash: name of a schedule of periodic tasks → its latest tick, and when it was last asked for (both ms)."""
    return f"ts:{{{stream}}}:ticks"


def revoked(stream: str, group: str) -> str:
    """Sorted set with a TTL: until when to remember it (ms, Redis' clock) → id of a message that is not to run.

    Ending in .5: nor to go on running.
    """
    return f"ts:{{{stream}}}:revoked:{group}"


def outcomes(message_id: str) -> str:
    """Hash with a TTL: group → delivery number and outcome of this message, in the Redis result store."""
    return f"ts:{{{message_id}}}:outcomes"


def state(message_id: str) -> str:
    """String with a TTL: what an unfinished message is at, as JSON; and the pub/sub channel that tells of a change."""
    return f"ts:{{{message_id}}}:state"


SUBSCRIPTIONS = "ts:subscriptions"
"""Hash: label of an event or queue → JSON of its stream, group and when a worker last had it."""

WORKERS = "ts:workers"
"""Sorted set: worker name → expiry of its entry (ms, Redis' clock)."""

CONTROL_CHANNEL = "ts:control"
"""Pub/sub channel on which every worker process hears commands."""


def worker(name: str) -> str:
    """String with a TTL: what a worker process says about itself, as JSON."""
    return f"ts:worker:{name}"


def reply(request_id: str) -> str:
    """List with a TTL: answers of workers to one control request."""
    return f"ts:reply:{request_id}"


_KINDS = {
    "again": b"stream",
    "delayed": b"zset",
    "ranked": b"zset",
    "dead": b"zset",
    "leases": b"zset",
    "letters": b"hash",
    "deaths": b"hash",
    "control": b"hash",
    "retention": b"hash",
    "outcomes": b"hash",
    "state": b"string",
    "chord": b"hash",
    "revoked": b"zset",
    "watched": b"string",
    "published": b"string",
    "order": b"list",
    "ordered": b"hash",
    "slots": b"hash",
    "parked": b"list",
    "parking": b"hash",
    "rate": b"hash",
    "ticks": b"hash",
}


def kind(name: str) -> bytes | None:
    """What TYPE answers for a key of a stream, its own among them, where nobody broke it; None for any other key."""
    if not name.startswith(RESERVED_PREFIX):
        return b"stream"
    return _KINDS.get(name.partition("}:")[2].partition(":")[0])
