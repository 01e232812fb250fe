"""The child processes of ``dev`` and ``run``: starts them, starts a dead one again, stops them within bounds.

Children have process groups of their own, so a Ctrl-C in the terminal reaches this process only; each child then
gets exactly one SIGTERM (to a worker pool a second one means "now"), two if the user asks twice. Should this process
be killed, they get the same signal from the kernel (taskstream.processes).
"""

from __future__ import annotations

import queue
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from taskstream import processes

BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
HEALTHY_AFTER_S = 10.0
"""A child that lived this long starts again without a wait."""

TICK_S = 0.2
"""How often to look at what sends no signal to this process: processes that a dead child left behind."""

MISCONFIGURED = 2
"""Exit status of a child that says its configuration cannot work; starting it again would change nothing."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signalled(NamedTuple):
    """Somebody wants this process to stop."""

    number: int


class Changed(NamedTuple):
    """Files of the application changed: paths to show."""

    paths: tuple[str, ...]


class ChildEnded(NamedTuple):
    """Some child of this process ended."""


Event = Signalled | Changed | ChildEnded


class Events(queue.SimpleQueue[Event]):
    """What happened, in order. May be fed by signal handlers and other threads."""

    stop_wanted = False
    """Whether somebody has asked this process to stop, for work that should not go on then."""

    def put(self, item: Event, block: bool = True, timeout: float | None = None) -> None:
        """Add an event."""
        self.stop_wanted |= isinstance(item, Signalled)
        super().put(item)

    def take_changes(self) -> tuple[str, ...]:
        """Take out the changes that are here by now; their paths. All else stays."""
        found = [self.get_nowait() for _ in range(self.qsize())]
        for event in found:
            if not isinstance(event, Changed):
                self.put(event)
        return tuple(sorted({path for event in found if isinstance(event, Changed) for path in event.paths}))


@contextmanager
def listening(events: Events) -> Iterator[None]:
    """Turn signals to this process into events meanwhile. For the main thread."""

    def stop_wanted(number: int, frame: object) -> None:
        events.put(Signalled(number))

    def child_ended(number: int, frame: object) -> None:
        events.put(ChildEnded())

    before = {number: signal.signal(number, stop_wanted) for number in STOP_SIGNALS}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, child_ended)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """One program that should be running. ``name`` is for messages."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self.wanted = True
        """Whether it is started with the others."""
        self.restart_at: float | None = None
        """When to start it again (time.monotonic()), None while it runs or shall not."""
        self._argv = argv
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._orphans: set[int] = set()
        self._started_at = 0.0
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the program."""
        self.restart_at = None
        self._started_at = time.monotonic()
        self._process = processes.spawn(self._argv, own_group=True, env=self._env)

    def reap(self) -> int | None:
        """Its exit status if it has ended since it was started, else None. Plans the next start."""
        if self._process is None:
            return None
        status = self._process.poll()
        if status is None:
            return None
        # What it had started (a pool's workers) may still be finishing something: it ends by itself.
        self._orphans.add(self._process.pid)
        self._process = None
        now = time.monotonic()
        if now - self._started_at >= HEALTHY_AFTER_S:
            self._failures = 0
        self.restart_at = now + min(BACKOFF_MAX_S, BACKOFF_S * 2**self._failures)
        self._failures += 1
        return status

    def has_orphans(self) -> bool:
        """Whether processes of an earlier run are still there."""
        self._orphans = {group for group in self._orphans if processes.group_exists(group)}
        return bool(self._orphans)

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it runs; it is not started again."""
        self.restart_at = None
        if self._process is not None:
            self._process.terminate()

    def ended(self) -> bool:
        """Whether it and all it had started have ended."""
        if self._process is not None and self._process.poll() is not None:
            # It ended as it was asked to: what it left behind is of no use.
            processes.signal_group(self._process.pid, signal.SIGKILL)
            self._process = None
        return self._process is None and not self.has_orphans()

    def kill(self) -> None:
        """End it and all it had started at once."""
        for group in self._orphans:
            processes.signal_group(group, signal.SIGKILL)
        self._orphans.clear()
        if self._process is not None:
            processes.signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Children:
    """Several children as one: started together, watched, stopped together."""

    def __init__(self, children: Sequence[Child], events: Events, say: Callable[[str], None]) -> None:
        self._children = children
        self._events = events
        self._say = say

    def start(self) -> None:
        """Start all that are wanted."""
        for child in self._children:
            if child.wanted:
                child.start()

    def tend(self) -> list[Child]:
        """Start again what died and has waited long enough; return the children whose configuration cannot work."""
        hopeless = []
        for child in self._children:
            status = child.reap()
            if status == MISCONFIGURED:
                child.restart_at = None
                hopeless.append(child)
            elif status is not None and child.restart_at is not None:
                wait = max(0.0, child.restart_at - time.monotonic())
                self._say(f"{child.name} ended {_how(status)}; starting it again in {wait:.1f} s")
            if child.restart_at is not None and child.restart_at <= time.monotonic():
                child.start()
        return hopeless

    def patience(self) -> float | None:
        """Seconds after which ``tend`` is due even if no event came, None if there is nothing to wait for."""
        times = [child.restart_at - time.monotonic() for child in self._children if child.restart_at is not None]
        if any(child.has_orphans() for child in self._children):
            times.append(TICK_S)
        return max(0.0, min(times)) if times else None

    def running(self) -> bool:
        """Whether any of them runs."""
        return any(child.pid is not None for child in self._children)

    def stop(self, grace: float, *, restart: bool = False) -> bool:
        """Stop all: SIGTERM to each, SIGKILL to what is left after ``grace`` seconds.

        A second stop signal from the user is passed on to them (hurry), a third kills. The first one came before,
        unless ``restart`` says that nobody has sent any: then it changes nothing for children that stop already.
        Returns whether one came meanwhile. Changes that come meanwhile stay events.
        """
        deadline = time.monotonic() + grace
        for child in self._children:
            child.ask_to_stop()
        pressed = before = 0 if restart else 1
        later: list[Changed] = []
        while not all(child.ended() for child in self._children):
            left = deadline - time.monotonic()
            if left <= 0 or pressed > 2:
                for child in self._children:
                    child.kill()
                break
            try:
                event = self._events.get(timeout=min(left, TICK_S))
            except queue.Empty:
                continue
            if isinstance(event, Changed):
                later.append(event)
            elif isinstance(event, Signalled):
                pressed += 1
                if pressed == 1:
                    self._say("stopping")
                if pressed == 2:
                    for child in self._children:
                        child.ask_to_stop()
        for event in later:
            self._events.put(event)
        return pressed > before


def _how(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
