"""What happened in a chaos run, as files and the driver tell it: calls, runs, deaths, freezes, outages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

END_OF_TIME = float("inf")


class Call(NamedTuple):
    """One call of a producer. ``verdict``: accepted, refused (not sent), unsure."""

    verdict: str
    number: int
    kind: str
    message_id: str


class Span(NamedTuple):
    """From when to when something held (wall clock, s)."""

    begin: float
    end: float

    def touches(self, begin: float, end: float) -> bool:
        """Whether it overlaps with another span."""
        return self.begin <= end and begin <= self.end


@dataclass
class Run:
    """One run of one call in a worker process. ``end`` and ``failed`` are times, None where it did not get there."""

    number: int
    pid: int
    begin: float
    end: float | None = None
    failed: float | None = None


@dataclass
class Records:
    """Everything that is known afterwards."""

    folder: Path
    killed: dict[int, float] = field(default_factory=dict)
    """Worker processes that were sent SIGKILL, and when."""
    stopped: dict[int, float] = field(default_factory=dict)
    """Worker processes that were told to stop cleanly, and when."""
    frozen: list[tuple[int, Span]] = field(default_factory=list)
    outages: list[Span] = field(default_factory=list)

    def calls(self) -> list[Call]:
        """All calls of all producers."""
        found = []
        for path in sorted(self.folder.glob("producer*.log")):
            for line in path.read_text().splitlines():
                verdict, number, *more = line.split()
                found.append(Call(verdict, int(number), *(more or ("", ""))))
        return found

    def runs(self) -> dict[int, list[Run]]:
        """All runs by number, in the order they began."""
        found: dict[int, list[Run]] = {}
        path = self.folder / "effects.log"
        for line in path.read_text().splitlines() if path.exists() else ():
            step, text, pid, at = line.split()
            number = int(text)
            if step == "begin":
                found.setdefault(number, []).append(Run(number, int(pid), float(at)))
                continue
            # Of the same process the latest run: a message is never run twice at once in one.
            run = [one for one in found[number] if one.pid == int(pid)][-1]
            if step == "end":
                run.end = float(at)
            else:
                run.failed = float(at)
        return found
