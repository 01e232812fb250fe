"""Draws the charts in docs/charts out of the JSON lines that the benchmarks print.

    python -m benchmarks.charts FILE… [--folder docs/charts]

A chart is drawn for whatever the files hold: the comparison with others (noop, io), stages, payloads, scaling, options,
growth. Figures are medians. Measures nothing; the same lines make the same files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks import svg
from benchmarks.harness import ROOT
from benchmarks.peers import report

BARS = {
    "stages": ("stage", "cpu_us", "What each stage of a call costs", "CPU of one process, µs a message"),
    "payloads": ("payload", "per_s", "Calls worked off, by the size of their arguments", "messages a second"),
    "scaling": ("case", "per_s", "Calls worked off, by what the pool is", "messages a second"),
    "options": ("option", "cpu_us", "What an option costs a worker", "CPU, µs a message"),
}
"""Name of the chart → the field that names a bar, the figure, title, unit."""
PEERS = {
    "noop": ("per_s", "No-op tasks, two processes", "tasks a second"),
    "io": ("per_s", "Tasks that wait for 20 ms, 2 × 100 at a time", "tasks a second"),
}
GROWTH = {
    "waiting": "messages waiting behind",
    "groups": "groups that consume the stream",
    "consumers": "other consumers of the group",
    "delayed": "delayed calls due at once",
    "dead": "dead letters of the group",
}


def medians(rows: Sequence[report.Row], key: str, figure: str) -> dict[str, float]:
    """By what ``key`` says, the median of a figure."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = row.get(figure)
        if key in row and isinstance(value, int | float):
            found.setdefault(str(row[key]), []).append(float(value))
    return {name: median(values) for name, values in found.items()}


def growth(rows: Sequence[report.Row], what: str) -> dict[str, list[tuple[float, float]]]:
    """CPU for each message by how much has piled up."""
    mine = [row for row in rows if row.get("growth") == what]
    series = {}
    for name, figure in (("workers", "cpu_us"), ("server", "server_us")):
        points = medians(mine, "size", figure)
        if points:
            series[name] = [(float(size), value) for size, value in points.items()]
    return series


def drawn(rows: Sequence[report.Row]) -> Iterator[tuple[str, str]]:
    """Name and text of each chart."""
    for name, (key, figure, title, unit) in BARS.items():
        values = medians(rows, key, figure)
        if values:
            yield name, svg.bars(title, unit, values)
    merged = report.merge(rows)
    for scenario, (figure, title, unit) in PEERS.items():
        found = {one.name: at for one in merged if one.scenario == scenario if (at := one.number(figure)) is not None}
        if found:
            yield f"peers-{scenario}", svg.bars(title, unit, dict(sorted(found.items(), key=lambda one: -one[1])))
    for what, x_title in GROWTH.items():
        series = growth(rows, what)
        if series:
            yield f"growth-{what}", svg.lines(f"No-op calls beside {x_title}", x_title, "CPU, µs a message", series)


def main() -> None:
    """Draw what there is."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--folder", type=Path, default=ROOT / "docs" / "charts")
    options = command.parse_args()
    rows = report.read(options.files)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, text in drawn(rows):
        (options.folder / f"{name}.svg").write_text(text, encoding="utf-8")
        print(options.folder / f"{name}.svg")


if __name__ == "__main__":
    main()
