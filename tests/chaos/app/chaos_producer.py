"""A producer of the chaos run: ``chaos_producer.py NAME HOW FIRST STEP SEED PER_SECOND``; sends until SIGTERM.

``HOW``: ``single`` (delay), ``many`` (enqueue_many), ``keyed`` (task_id=, repeated until the broker has answered) or
``outbox`` (delay of an app with one).
It sends PER_SECOND on average, catching up after an outage, and waits while too much is still to be done.
Writes ``NAME.log``: ``verdict number kind id child``; the verdict is accepted, refused (certainly not sent) or unsure,
``child`` the id of a second stage, and what is not known is ``-``.
"""

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from chaos_tasks import app, late, poison, work
from chaos_tasks_new import first as first_stage

from taskstream import BrokerUnavailable
from taskstream.message import new_id

KINDS = {"quick": 930, "sleep": 30, "long": 6, "flaky": 16, "late": 4, "hopeless": 3, "first": 11}
POISON_EVERY_S = 25.0
BATCH = 200
BACKLOG = 8_000
"""Messages that may wait or run when more is sent."""
LATENESS_S = 20.0
"""How far behind its rate a producer may be and still catch up."""


class Producer:
    """One process' calls."""

    def __init__(self, name: str, how: str, first: int, step: int, seed: int, per_second: float) -> None:
        self._how = how
        self._number = first
        self._step = step
        self._rng = random.Random(seed)
        self._per_second = per_second
        self._poison_at = time.monotonic() + POISON_EVERY_S / 5 if how == "single" else float("inf")
        self._log = Path(__file__).with_name(f"{name}.log").open("ab", buffering=0)
        self._looked_at = 0.0
        self.running = True

    def run(self) -> None:
        """Send until told to stop."""
        due = time.monotonic()
        while self.running:
            now = time.monotonic()
            if due > now:
                time.sleep(min(due - now, 0.2))
                continue
            due = max(due, now - LATENESS_S)
            self._wait_for_room()
            due += self._send() / self._per_second
        while app.outbox is not None and app.outbox.waiting():
            time.sleep(0.1)

    def _send(self) -> int:
        """One round of calls; how many were accepted."""
        if self._how != "many":
            number, kind, call, child = self._call()
            done = self._keyed(number, kind, call, child) if self._how == "keyed" else self._single(number, kind, call)
            self._log.write(f"{done} {child or '-'}\n".encode())
            if done.startswith("accepted"):
                return 1
            time.sleep(0.05)
            return 0
        calls = [self._call() for _ in range(self._rng.randint(1, BATCH))]
        try:
            ids = [handle.id for handle in app.enqueue_many(call for _, _, call, _ in calls)]
            verdict = "accepted"
        except BrokerUnavailable as error:
            ids = ["-"] * len(calls)
            verdict = "unsure" if error.maybe_sent else "refused"
        lines = [
            f"{verdict} {number} {kind} {message_id} {child or '-'}\n"
            for (number, kind, _, child), message_id in zip(calls, ids, strict=True)
        ]
        self._log.write("".join(lines).encode())
        if verdict == "accepted":
            return len(calls)
        time.sleep(0.05)
        return 0

    def _single(self, number: int, kind: str, call: Any) -> str:
        try:
            return f"accepted {number} {kind} {call.task.delay(*call.args).id}"
        except BrokerUnavailable as error:
            if kind == "poison":
                self._poison_at = 0.0  # the next call then
            return f"{'unsure' if error.maybe_sent else 'refused'} {number} {kind} -"

    def _keyed(self, number: int, kind: str, call: Any, child: str | None) -> str:
        """Repeat until there is an answer, told to stop or not: under its id no repeat is a second call."""
        message_id = new_id()
        while True:
            try:
                call.task.apply_async(call.args, task_id=message_id)
                return f"accepted {number} {kind} {message_id}"
            except BrokerUnavailable:
                time.sleep(0.05)

    def _call(self) -> tuple[int, str, Any, str | None]:
        """The next call: number, kind, signature, id of its second stage."""
        number = self._number
        self._number += self._step
        if time.monotonic() >= self._poison_at:
            self._poison_at = time.monotonic() + POISON_EVERY_S
            return number, "poison", poison.s(number), None
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "first":
            child = new_id()
            return number, kind, first_stage.s(number, child), child
        if kind == "late":
            return number, kind, late.s(number), None
        seconds = self._rng.uniform(2.0, 4.0) if kind == "long" else self._rng.uniform(0.05, 1.0)
        return number, kind, work.s(number, kind, round(seconds, 3)), None

    def _wait_for_room(self) -> None:
        """Once a second look how much there is to do; wait while it is too much."""
        while self.running and time.monotonic() > self._looked_at + 1.0:
            try:
                too_much = app.broker.stream_length(app.name) > BACKLOG
            except BrokerUnavailable:
                return
            if not too_much:
                self._looked_at = time.monotonic()
                return
            time.sleep(0.25)


def main(name: str, how: str, first: str, step: str, seed: str, per_second: str) -> None:
    """Send until SIGTERM; the call under way is finished."""
    producer = Producer(name, how, int(first), int(step), int(seed), float(per_second))

    def stop(number: int, frame: object) -> None:
        producer.running = False

    signal.signal(signal.SIGTERM, stop)
    producer.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
