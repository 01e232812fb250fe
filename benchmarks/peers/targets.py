"""The targets this project set itself, beside what was measured: a table out of the JSON lines of one run.

Rates and CPU times were set on a machine whose bare loops of redis-py are known (REFERENCE). Another machine is
compared by the same loops in the same run: ``here`` is the target times that factor. Shares and ratios need no factor.
Lines of ``benchmarks.post`` and ``benchmarks.start`` are taken in where the files hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks.peers import limits
from benchmarks.peers.report import Merged, Row, merge, shown

REFERENCE = {limits.READ_2: ("per_s", 164_282.0), limits.READ_1: ("client_us", 5.18)}
"""Loop → the figure and its value on the machine that the targets were set on."""
OWN = "taskstream"


@dataclass(frozen=True)
class Target:
    """One line of the table; ``least``: whether more is better; ``by``: the loop whose factor applies, if one does."""

    what: str
    scenario: str
    variant: str
    figure: str
    bound: float
    unit: str
    least: bool = True
    by: str = ""
    times_peer: float | None = None
    """How many times as good as the best peer it has to be as well."""
    share_of: str = ""
    """A loop: ``bound`` is a share of it."""


TARGETS = (
    Target("no-op tasks, 2 processes", "noop", "off", "per_s", 110_000, "/s", by=limits.READ_2, times_peer=12),
    Target("CPU of the workers for each", "noop", "off", "worker_us", 9, "µs", least=False, by=limits.READ_1),
    Target("every result on disk, checkpoint", "noop", "checkpoint", "per_s", 90_000, "/s", by=limits.READ_2),
    Target("every result on disk, commit", "noop", "commit", "per_s", 70_000, "/s", by=limits.READ_2),
    Target("delay(), one producer", "enqueue", "off", "enqueue_per_s", 0.9, "× raw", share_of=limits.XADD_ONE),
    Target("enqueue_many", "enqueue", "off", "batch_per_s", 0.7, "× raw", share_of=limits.XADD_MANY),
    Target("20 ms sleeps, 2 × 100 slots", "io", "off", "per_s", 9_500, "/s"),
    Target("idle, enqueue to start, p50", "latency", "off", "p50_ms", 0.7, "ms", least=False, by=limits.READ_1),
    Target("idle, enqueue to start, p99", "latency", "off", "p99_ms", 1.5, "ms", least=False, by=limits.READ_1),
    Target("enqueue to get(), checkpoint, p50", "result", "checkpoint", "p50_ms", 0, "ms", least=False, times_peer=1),
    Target("enqueue to get(), commit, p50", "result", "commit", "p50_ms", 0, "ms", least=False, times_peer=1),
    Target("Redis commands per task at load", "noop", "off", "commands_per_task", 0.1, "", least=False),
    Target("idle pool, PSS", "memory", "off", "idle_pss_mib", 80, "MiB", least=False),
    Target("idle pool, CPU", "memory", "off", "idle_worker_pct", 0.4, "%", least=False, by=limits.READ_1),
    Target("Redis memory for a waiting task", "memory", "off", "bytes_per_task", 140, "B", least=False),
)
HEAD = ("scenario", "target", "here", "got", "best peer", "ratio", "reached")


def markdown(rows: Iterable[Row]) -> str:
    """The table, and the factors of the machine."""
    rows = list(rows)
    merged = merge(rows)
    factors = {loop: found / REFERENCE[loop][1] for loop in REFERENCE if (found := _loop(merged, loop)) is not None}
    lines = [_line(target, merged, factors) for target in TARGETS]
    lines += [line for more in MORE if (line := more(rows, factors)) is not None]
    text = [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 2)} --- |"]
    text += [f"| {' | '.join(line)} |" for line in lines]
    for loop, factor in factors.items():
        figure, reference = REFERENCE[loop]
        text.append(
            f"\n{loop}: {shown(reference * factor)} {figure} here, {shown(reference)} there, factor {factor:.2f}."
        )
    return "\n".join(text)


def _loop(merged: list[Merged], loop: str, figure: str = "") -> float | None:
    wanted = figure or REFERENCE[loop][0]
    return next((one.number(wanted) for one in merged if (one.scenario, one.peer) == ("limits", loop)), None)


def _line(target: Target, merged: list[Merged], factors: dict[str, float]) -> list[str]:
    sign = "≥" if target.least else "≤"
    found = {one.name: at for one in merged if one.scenario == target.scenario if (at := one.number(target.figure))}
    got = next(
        (
            one.number(target.figure)
            for one in merged
            if (one.scenario, one.peer, one.variant) == (target.scenario, OWN, target.variant)
        ),
        None,
    )
    others = {name: at for name, at in found.items() if name.split()[0] != OWN}
    best = (max if target.least else min)(others, key=lambda name: others[name], default="")
    wanted = [f"{sign} {shown(target.bound)} {target.unit}"] if target.bound else []
    if target.times_peer:
        wanted.append(f"{sign} the best peer" if target.times_peer == 1 else f"≥ {target.times_peer:g} × the best peer")
    bound: float | None = target.bound or None
    here = ""
    if target.share_of:
        raw = _loop(merged, target.share_of, "per_s")
        bound = None if raw is None else target.bound * raw
        here = "" if raw is None else f"raw {shown(raw)}/s"
    elif target.by in factors:
        bound = target.bound * factors[target.by]
        here = f"{sign} {shown(bound)} {target.unit}"
    if got is None:
        return [target.what, " and ".join(wanted), here, "not measured", "", "", ""]
    ratio = None
    if best:
        ratio = got / others[best] if target.least else others[best] / got
    unit = "/s" if target.share_of else f" {target.unit}" if target.unit != "/s" else "/s"
    told = [f"{shown(got)}{unit}"]
    reached = True
    if bound is not None:
        reached = got >= bound if target.least else got <= bound
    if target.share_of:
        raw = _loop(merged, target.share_of, "per_s")
        told.append("" if raw is None else f"({got / raw:.2f} × raw)")
        reached = reached and raw is not None
    if target.times_peer:
        reached = reached and ratio is not None and ratio >= target.times_peer
    peer = f"{best} {shown(others[best])}" if best else ""
    return [
        target.what,
        " and ".join(wanted),
        here,
        " ".join(told).strip(),
        peer,
        "" if ratio is None else f"{ratio:.2f}",
        "yes" if reached else "**no**",
    ]


def _median(rows: list[Row], figure: str, **wanted: object) -> float | None:
    values = [
        float(value)
        for row in rows
        if all(row.get(key) == value for key, value in wanted.items())
        if isinstance(value := row.get(figure), int | float)
    ]
    return median(values) if values else None


def _post(rows: list[Row], factors: dict[str, float]) -> list[str] | None:
    """POST at 16 clients beside hopeit.engine, from the lines of ``benchmarks.post``."""
    ours, theirs = (_median(rows, "per_s", system=name) for name in (OWN, "hopeit.engine"))
    if ours is None or theirs is None:
        return None
    reached = "yes" if ours >= 4 * theirs else "**no**"
    told = [f"{shown(ours)}/s", f"hopeit.engine {shown(theirs)}", f"{ours / theirs:.2f}", reached]
    return ["POST, 16 clients", "≥ 4 × hopeit.engine", "", *told]


def _start(what: str, figure: str, most_s: float, rows: list[Row], factors: dict[str, float]) -> list[str] | None:
    """How long something takes to start, from the lines of ``benchmarks.start``."""
    got = _median(rows, figure)
    if got is None:
        return None
    factor = factors.get(limits.READ_1)
    bound = most_s * (factor or 1)
    here = "" if factor is None else f"≤ {shown(bound)} s"
    return [what, f"≤ {shown(most_s)} s", here, f"{shown(got)} s", "", "", "yes" if got <= bound else "**no**"]


MORE: tuple[Callable[[list[Row], dict[str, float]], list[str] | None], ...] = (
    _post,
    partial(_start, "start to first task", "first_task_s", 0.6),
    partial(_start, "taskstream --help", "help_s", 0.15),
)
