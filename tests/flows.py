"""Runs workflows without a server: messages in a list, chords in a dict, the tasks' own handlers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from taskstream import Taskstream
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.continuation import after_failure, failed_before, failed_with, gathered, gathered_failure
from taskstream.handler import QUEUE_GROUP, Follower, Handler, Joining, Opening, Successor
from taskstream.message import Delivery, Message


class Flow:
    """Stands in for an app's broker: keeps what is sent and runs it, in any order, until nothing is left.

    ``values`` has the JSON value of each message that ran, ``failures`` the error's type of each that failed or was
    not run because of that; ``order`` what ran, as ``task(args)``.
    """

    def __init__(self, app: Taskstream) -> None:
        self.handlers: dict[str, Handler] = dict(app.subscriptions()[0].handlers)  # type: ignore[arg-type]
        self.messages: list[tuple[str, Message]] = []
        self.envelopes: list[Envelope] = []
        self.chords: dict[str, tuple[Opening, dict[int, bytes]]] = {}
        self.values: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.order: list[str] = []
        self.seen: dict[str, Message] = {}
        app._broker = self  # type: ignore[assignment]

    # What the app needs of a broker

    def send(self, envelope: Envelope) -> str:
        """Keep one message."""
        self.envelopes.append(envelope)
        self.messages.append((envelope.stream, envelope.message))
        return envelope.message.id

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        """Keep several."""
        return Sent([self.send(one) for one in envelopes])

    def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The only script a producer sends: chords that begin."""
        for _, _, _, name, _, _, total, then, headers in commands[1:]:
            queue, _, callback = name.removeprefix("ts:{").partition("}:chord:")
            self._open(Opening(queue, callback, total, then, headers))
        return [b""] * len(commands)

    def close(self) -> None:
        """Nothing is open."""

    # What a worker does

    def run(self, choose: Callable[[int], int] = lambda count: 0) -> None:
        """Run everything there is; ``choose(n)`` says which of n messages comes next."""
        while self.messages:
            queue, message = self.messages.pop(choose(len(self.messages)))
            self._run(queue, message)

    def run_at_random(self, seed: int) -> None:
        """Run everything in an order made of ``seed``."""
        self.run(random.Random(seed).randrange)

    def _run(self, queue: str, message: Message) -> None:
        failed = failed_before(message)
        self.seen[message.id] = message
        if failed is not None:
            self.failures.setdefault(message.id, failed.type)
            self._follow(after_failure(message, failed))
            return
        handler = self.handlers[message.name]
        delivery = Delivery(message, queue, QUEUE_GROUP, "1-1", 1)
        args = ", ".join(str(one) for one in msgspec.json.decode(message.body).get("args", []))
        self.order.append(f"{message.name.rpartition('.')[2]}({args})")
        try:
            value = handler.run(delivery)
            followers = handler.successors(delivery, value)
            self.values[message.id] = msgspec.json.decode(handler.dump(value))
            self.failures.pop(message.id, None)
        except Exception as error:
            kind = type(error).__name__
            self.failures[message.id] = kind
            followers = after_failure(message, failed_with(message, "FAILURE", kind, str(error), ""))
        self._follow(followers)

    def _open(self, opening: Opening) -> None:
        self.chords.setdefault(opening.id, (opening, {}))

    def _follow(self, followers: Sequence[Follower]) -> None:
        for one in followers:
            if isinstance(one, Opening):
                self._open(one)
            elif isinstance(one, Successor):
                self.messages.append((one.stream, one.message))
            else:
                self._join(one)

    def _join(self, joining: Joining) -> None:
        opening, found = self.chords[joining.id]
        if joining.value is None:
            self._follow(gathered_failure(joining, opening.then, opening.headers))
            return
        found.setdefault(joining.index, joining.value)
        if len(found) == opening.total:
            values = [found[index] for index in range(opening.total)]
            self._follow(gathered(joining, opening.then, opening.headers, values))
