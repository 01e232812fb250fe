"""Figures of a chaos run out of its records: how fast a takeover was, how soon work went on. Pure."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .records import Records, Run

POLL_S = 0.05
"""How long after the server handed out a message the look at it may have come."""


class Summary(NamedTuple):
    """Of a list of durations (s); ``excluded`` are those that say nothing."""

    count: int
    p50: float
    p99: float
    max: float
    excluded: int = 0

    def __str__(self) -> str:
        text = f"p50 {self.p50:.2f} s, p99 {self.p99:.2f} s, max {self.max:.2f} s of {self.count}"
        return f"{text}, {self.excluded} excluded" if self.excluded else text


def summary(values: Iterable[float], excluded: int = 0) -> Summary:
    """Nearest-rank percentiles; zeros where there are no values."""
    ordered = sorted(values)
    if not ordered:
        return Summary(0, 0.0, 0.0, 0.0, excluded)
    p50, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    return Summary(len(ordered), round(p50, 3), round(p99, 3), round(ordered[-1], 3), excluded)


class Takeover(NamedTuple):
    """From the SIGKILL of a process to the next run of what it had begun; ``excluded`` says why it does not count."""

    number: int
    seconds: float
    excluded: str = ""


def takeovers(records: Records, runs: Mapping[int, Sequence[Run]]) -> list[Takeover]:
    """Every run that a SIGKILL of the driver broke off and that went on elsewhere."""
    killed: dict[int, list[float]] = defaultdict(list)
    for pid, at in records.killed:
        killed[pid].append(at)
    found = []
    for number, all_of_it in runs.items():
        for run, following in pairwise(all_of_it):
            if run.end is not None or run.failed is not None:
                continue
            died = min((at for at in killed.get(run.pid, ()) if at >= run.begin), default=math.inf)
            if died <= following.begin:
                why = _why_excluded(records, run.pid, died, following.begin)
                found.append(Takeover(number, following.begin - died, why))
    return found


def _why_excluded(records: Records, pid: int, begin: float, end: float) -> str:
    for name, spans in (("no broker", records.outages), ("disk full", records.full), ("machine", records.stalls)):
        if any(span.touches(begin, end) for span in spans):
            return name
    return ""


def back_to_work(records: Records, runs: Mapping[int, Sequence[Run]]) -> list[float]:
    """For every return of the broker the seconds to the first message that it handed out and that began to run."""
    begins = array("d", sorted(run.begin for all_of_it in runs.values() for run in all_of_it))
    found = []
    for answered, handed in records.back:
        at = bisect_left(begins, max(answered, handed - POLL_S))
        if at < len(begins):
            found.append(max(begins[at], handed - POLL_S) - answered)
    return found


def growth(samples: Sequence[tuple[float, float]], warm_up_s: float) -> tuple[float, float]:
    """MB grown from the first third to the last, by their medians, and MB per minute, after the warm-up.

    ``samples`` are (s, MB), in order.
    """
    begun = samples[0][0] + warm_up_s
    warm = [one for one in samples if one[0] >= begun]
    third = len(warm) // 3
    if not third:
        return 0.0, 0.0
    first, last = _middle(warm[:third]), _middle(warm[-third:])
    grown = last[1] - first[1]
    return grown, 60.0 * grown / max(last[0] - first[0], 1.0)


def _middle(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    times = sorted(time for time, _ in samples)
    sizes = sorted(size for _, size in samples)
    return times[len(times) // 2], sizes[len(sizes) // 2]
