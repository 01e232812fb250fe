"""What happened in a chaos run, as files and the driver tell it: calls, runs, deaths, freezes, faults of the world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .app.chaos_effects import BEGIN, END, FOLDER, RECORD

CHILD = 1 << 31
"""As in the app: added to a number for the second stage of its call."""


class Call(NamedTuple):
    """One call of a producer. ``verdict``: accepted, refused (not sent), unsure. ``child``: id of its second stage."""

    verdict: str
    number: int
    kind: str
    message_id: str
    child: str = "-"


class Span(NamedTuple):
    """From when to when something held (monotonic s)."""

    begin: float
    end: float

    def touches(self, begin: float, end: float) -> bool:
        """Whether it overlaps with another span."""
        return self.begin <= end and begin <= self.end


@dataclass(slots=True)
class Run:
    """One run of one call in a worker process. ``end`` and ``failed`` are times, None where it did not get there."""

    number: int
    pid: int
    begin: float
    end: float | None = None
    failed: float | None = None


@dataclass
class Records:
    """Everything that is known afterwards. Times are monotonic seconds."""

    folder: Path
    killed: list[tuple[int, float]] = field(default_factory=list)
    """Worker processes that were sent SIGKILL, and when."""
    stopped: list[tuple[int, Span]] = field(default_factory=list)
    """Worker processes that were told to stop cleanly: when, and when they were gone."""
    frozen: list[tuple[int, Span]] = field(default_factory=list)
    cut_off: list[tuple[int, Span]] = field(default_factory=list)
    """Worker processes that no packet reached."""
    outages: list[Span] = field(default_factory=list)
    """The broker was away: from the signal until it answered again."""
    full: list[Span] = field(default_factory=list)
    """No outcome could be written."""
    back: list[tuple[float, float]] = field(default_factory=list)
    """When the broker answered again, and when it was first seen to hand out a message after that."""
    stalls: list[Span] = field(default_factory=list)
    """The whole machine stood still, the driver too."""

    def calls(self) -> Iterator[Call]:
        """All calls of all producers, without the second stages."""
        for path in sorted(self.folder.glob("producer*.log")):
            with path.open() as lines:
                for line in lines:
                    verdict, number, *more = line.split()
                    yield Call(verdict, int(number), *more)

    def runs(self) -> dict[int, list[Run]]:
        """All runs by number, in the order they began."""
        found: dict[int, list[Run]] = {}
        for path in sorted((self.folder / FOLDER).glob("*-*")):
            pid = int(path.name.partition("-")[0])
            mine: dict[int, Run] = {}  # a process that lost its lease may run a message twice at once
            data = path.read_bytes()
            for step, number, which, at in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
                if step == BEGIN:
                    run = mine[which] = Run(number, pid, at)
                    found.setdefault(number, []).append(run)
                elif step == END:
                    mine[which].end = at
                else:
                    mine[which].failed = at
        for runs in found.values():
            if len(runs) > 1:
                runs.sort(key=lambda run: run.begin)
        return found

    def running(self, pid: int) -> int:
        """How many handlers run in a process."""
        files = sorted((self.folder / FOLDER).glob(f"{pid}-*"), key=lambda path: path.stat().st_mtime)
        data = files[-1].read_bytes() if files else b""
        steps = data[: len(data) // RECORD.size * RECORD.size : RECORD.size]
        return 2 * steps.count(BEGIN) - len(steps)

    def run_count(self) -> int:
        """About how many runs there were so far, without reading them."""
        return sum(path.stat().st_size for path in (self.folder / FOLDER).glob("*-*")) // (2 * RECORD.size)
