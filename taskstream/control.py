"""The sending side of the control channel: ask workers, and stop or start what they consume.

A choice (started, stopped) is durable state in Redis, which every worker obeys sooner or later; the request sent
after it only makes them obey at once and say so. It never touches messages, and it never waits without a bound.
"""

from __future__ import annotations

import difflib
import fnmatch
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from taskstream import keys
from taskstream.broker import revocations
from taskstream.errors import ConfigError
from taskstream.handler import QUEUE_GROUP
from taskstream.message import encode_json, new_id

if TYPE_CHECKING:
    from taskstream.broker import Broker

STARTED = "started"
STOPPED = "stopped"

MOST_TOLD = 1_000
"""Ids that one hint carries at most."""

SLICE_S = 0.5
"""Longest single wait for a reply; well below the socket timeout of every connection profile."""


class Reply(msgspec.Struct, frozen=True):
    """What one worker answered. ``error`` says why ``ok`` is False."""

    worker: str
    ok: bool
    error: str | None = None
    result: Any = None


class Control:
    """Sends control requests over ``broker``. Thread-safe, keeps nothing between calls."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def request(
        self,
        command: str,
        args: Mapping[str, object] | None = None,
        worker: str | None = None,
        timeout: float = 2.0,
        expect: Collection[str] | None = None,
    ) -> list[Reply]:
        """Send one command and return the answers, sorted by worker.

        ``worker`` is a shell pattern of worker names (None: all). ``expect`` names the workers to wait for,
        at most ``timeout`` seconds; None stands for the live workers that match. A worker outside of it that
        answered by then is included. Raises BrokerUnavailable.
        """
        if expect is None:
            pattern = worker if worker is not None else "*"
            expect = [name for name in self.live_workers() if fnmatch.fnmatchcase(name, pattern)]
        request_id = new_id()
        body = encode_json({"id": request_id, "command": command, "args": dict(args or {}), "worker": worker})
        deadline = time.monotonic() + timeout
        with self._broker.errors():
            self._broker.client.publish(keys.CONTROL_CHANNEL, body)
            replies = self._collect(keys.reply(request_id), set(expect), deadline)
        return [replies[name] for name in sorted(replies)]

    def set_state(self, stream: str, group: str, state: str, timeout: float = 2.0) -> list[Reply]:
        """Keep the choice (STARTED or STOPPED) for a group, then have every live worker of it obey.

        Idempotent. The choice is kept whether or not a worker answers within ``timeout`` seconds; a worker that
        says ok has obeyed already. Raises BrokerUnavailable, ValueError for another state.
        """
        if state not in (STARTED, STOPPED):
            raise ValueError(f"state {state!r} is neither {STARTED!r} nor {STOPPED!r}")
        version = self._broker.set_state(stream, group, state)
        args = {"stream": stream, "group": group, "version": version, "state": state}
        return self.request("sync", args, timeout=timeout, expect=self.holders(stream, group))

    def revoke(
        self, stream: str, group: str, ids: Sequence[str], terminate: bool = False, timeout: float = 0.0
    ) -> list[Reply]:
        """Have no message of ``ids`` run in a group any more, with ``terminate`` nor go on running.

        That is kept whether or not a worker hears of it at once. Returns who answered within ``timeout`` seconds that
        it knows; with 0 nobody is asked to. Raises BrokerUnavailable.
        """
        number = revocations.revoke(self._broker, stream, group, ids, terminate)
        if len(ids) > MOST_TOLD:
            ids, number = (), number + 1  # more than a hint should carry: workers read them
        args = {"stream": stream, "group": group, "ids": list(ids), "terminate": terminate, "number": number}
        if timeout <= 0:
            body = encode_json({"id": "", "command": "revoke", "args": args, "worker": None})
            self._broker.call("PUBLISH", keys.CONTROL_CHANNEL, body)
            return []
        return self.request("revoke", args, timeout=timeout, expect=self.holders(stream, group))

    def live_workers(self) -> list[str]:
        """Names of the live worker processes. Raises BrokerUnavailable."""
        return sorted(str(info["name"]) for info in self._broker.workers())

    def holders(self, stream: str, group: str) -> list[str]:
        """Names of the live worker processes that have a subscription to this group. Raises BrokerUnavailable."""
        return sorted(
            str(info["name"])
            for info in self._broker.workers()
            if any(held["stream"] == stream and held["group"] == group for held in info.get("subscriptions", ()))
        )

    def resolve(self, target: str, extra: Mapping[str, tuple[str, str]] | None = None) -> tuple[str, str, str]:
        """Find (label, stream, group) of an event or queue.

        ``target`` is its label, or the event's own name where only one event has it. Looks among what workers
        registered in Redis and in ``extra`` (label → stream, group), the caller's own configuration, which wins.
        Raises ConfigError naming the candidates, BrokerUnavailable.
        """
        known = {label: (info.stream, info.group) for label, info in self._broker.subscriptions().items()}
        known.update(extra or {})
        label = pick(target, known)
        return label, *known[label]

    def _collect(self, key: str, missing: set[str], deadline: float) -> dict[str, Reply]:
        """Gather replies until ``missing`` is empty or the deadline passed; then take what else has come."""
        client = self._broker.client
        replies: dict[str, Reply] = {}
        while missing and (left := deadline - time.monotonic()) > 0:
            popped = client.blpop([key], timeout=max(0.01, min(left, SLICE_S)))
            for reply in _decoded([popped[1]] if popped else []):
                replies[reply.worker] = reply
                missing.discard(reply.worker)
        for reply in _decoded(client.lrange(key, 0, -1)):
            replies.setdefault(reply.worker, reply)
        client.delete(key)
        return replies


def pick(target: str, known: Mapping[str, tuple[str, str]]) -> str:
    """The label that ``target`` means among ``known`` (label → stream, group).

    A queue goes by its whole name only; an event also by the last part of its label. Raises ConfigError.
    """
    if target in known:
        return target
    matches = sorted(
        label for label, (_, group) in known.items() if group != QUEUE_GROUP and label.endswith(f".{target}")
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"{target!r} names several events, give one whole: {', '.join(matches)}")
    if not known:
        raise ConfigError(
            f"no event or queue {target!r}: none is known to this broker yet; start a worker that has it, "
            "or name its code with --config-files or -A"
        )
    own_names = [label.rpartition(".")[2] for label, (_, group) in known.items() if group != QUEUE_GROUP]
    near = difflib.get_close_matches(target, [*known, *own_names], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"no event or queue {target!r}; {hint}known: {', '.join(sorted(known))}")


def _decoded(items: Iterable[bytes | str]) -> Iterator[Reply]:
    """Well-formed replies; what is none came from no worker of ours."""
    for item in items:
        try:
            yield msgspec.json.decode(item, type=Reply)
        except msgspec.MsgspecError:
            continue
