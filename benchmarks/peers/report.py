"""JSON lines → medians, and Markdown tables of them. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

Row = Mapping[str, object]

COLUMNS: dict[str, dict[str, str]] = {
    "enqueue": {
        "enqueue_per_s": "single/s",
        "enqueue_client_us": "client CPU µs",
        "enqueue_redis_us": "redis CPU µs",
        "batch_per_s": "many/s",
        "batch_client_us": "client CPU µs",
        "batch_how": "call for many",
    },
    "noop": {
        "per_s": "tasks/s",
        "worker_us": "worker CPU µs",
        "redis_us": "redis CPU µs",
        "commands_per_task": "redis commands/task",
        "peak_rss_mib": "peak RSS MiB",
        "processes": "processes",
        "n": "n",
        "distinct": "distinct",
    },
    "io": {
        "per_s": "tasks/s",
        "elapsed_s": "elapsed s",
        "ideal_s": "ideal s",
        "worker_us": "worker CPU µs",
        "redis_us": "redis CPU µs",
        "peak_rss_mib": "peak RSS MiB",
        "distinct": "distinct",
    },
    "latency": {
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "max_ms": "max ms",
        "worker_pct": "worker CPU %",
        "redis_pct": "redis CPU %",
        "records": "tasks seen",
    },
    "result": {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "max_ms": "max ms", "wrong": "wrong", "n": "n"},
    "memory": {
        "idle_rss_mib": "idle RSS MiB (sum)",
        "idle_pss_mib": "idle PSS MiB",
        "processes": "processes",
        "idle_worker_pct": "idle CPU %",
        "idle_redis_pct": "idle redis CPU %",
        "bytes_per_task": "redis bytes/task",
    },
    "crash": {
        "kills": "kills",
        "lost": "lost",
        "lost_after_start": "of them started",
        "completed_again": "completed again",
        "started_again": "started again",
        "late_tasks": "tasks >3 s late",
        "latest_s": "latest, s",
        "all_done_s": "all done after s",
    },
    "limits": {"per_s": "per s", "client_us": "client CPU µs", "redis_us": "redis CPU µs"},
}
BEST = {
    "enqueue": ("enqueue_per_s", -1),
    "noop": ("per_s", -1),
    "io": ("per_s", -1),
    "latency": ("p50_ms", 1),
    "result": ("p50_ms", 1),
    "memory": ("bytes_per_task", 1),
}
"""What a scenario's table is ordered by: −1, the highest first; 1, the lowest first."""
WITH_RANGE = ("noop", "io", "limits")


@dataclass
class Merged:
    """All runs of a variant in a scenario: medians of numbers, the last of everything else."""

    scenario: str
    peer: str
    variant: str
    runs: int = 0
    figures: dict[str, object] = field(default_factory=dict)
    problem: str = ""
    """Why there is no run."""

    @property
    def name(self) -> str:
        """Peer and variant."""
        return f"{self.peer} {self.variant}".strip()

    def number(self, figure: str) -> float | None:
        """A figure, None where it was not measured."""
        found = self.figures.get(figure)
        return float(found) if isinstance(found, int | float) else None


def merge(rows: Iterable[Row]) -> list[Merged]:
    """One Merged for each scenario, peer and variant, in the order they came."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if "scenario" in row and "peer" in row:
            key = (str(row["scenario"]), str(row["peer"]), str(row.get("variant", "")))
            grouped.setdefault(key, []).append(row)
    return [_merged(Merged(*key), found) for key, found in grouped.items()]


def _merged(made: Merged, rows: list[Row]) -> Merged:
    good = [row for row in rows if "error" not in row and "skipped" not in row]
    made.runs = len(good)
    for row in rows:
        if "skipped" in row:
            made.problem = f"not run: {row['skipped']}"
        elif "error" in row:
            made.problem = f"failed: {row['error']}"
    for name in dict.fromkeys(name for row in good for name in row):
        values = [row[name] for row in good if row.get(name) is not None]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if values:
            made.figures[name] = median(numbers) if len(numbers) == len(values) else values[-1]
    if made.scenario in WITH_RANGE:
        rates = [float(value) for row in good if isinstance(value := row.get("per_s"), int | float)]
        made.figures["range"] = f"{min(rates):,.0f}-{max(rates):,.0f}" if rates else ""
    return made


def read(files: Iterable[Path]) -> list[Row]:
    """The JSON lines of all files, in whatever else they hold."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.startswith("{")]


def shown(value: object) -> str:
    """A cell of a table: three digits that count."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(rows: Iterable[Row]) -> str:
    """A table for each scenario."""
    text = []
    merged = merge(rows)
    for scenario, columns in COLUMNS.items():
        found = [one for one in merged if one.scenario == scenario]
        if not found:
            continue
        if scenario in BEST:
            figure, sign = BEST[scenario]
            found.sort(key=lambda one: float("inf") if (at := one.number(figure)) is None else sign * at)
        names = [*columns, *(["range"] if scenario in WITH_RANGE else [])]
        headings = [columns.get(name, name) for name in names] + ["runs"]
        text += [
            f"### {scenario}",
            "",
            f"| {'loop' if scenario == 'limits' else 'queue'} | {' | '.join(headings)} |",
            f"| --- |{' ---: |' * len(headings)}",
        ]
        for one in found:
            cells = [shown(one.figures.get(name)) for name in names] + [str(one.runs)]
            if not one.runs:
                cells = [one.problem] + [""] * (len(headings) - 1)
            text.append(f"| {one.name} | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)
