"""How many outcomes a second each result store keeps, by batch size and fsync policy.

    python -m benchmarks.results_store [--seconds 2] [--processes 2] [--folder FOLDER]

A figure is one process writing batches (like a worker's committer), or ``--processes`` of them on one store. ``cpu_us``
is CPU time per outcome, which is steadier than the rate on a busy machine. Run it on the disk that is to hold the
results.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.harness import Column, Figures, Row, parser
from taskstream.message import new_id
from taskstream.results import SUCCESS, Outcome, open_store

BATCHES = (1, 10, 100, 1000)


def outcomes(count: int, *, random_ids: bool) -> list[Outcome]:
    """A batch as a worker's committer makes it from small event payloads."""
    now_ms = int(time.time() * 1000)
    return [
        Outcome(
            id=os.urandom(16).hex() if random_ids else new_id(),
            group="process-message-group",
            handler="my-streaming-app.process-message",
            state=SUCCESS,
            delivery=1,
            attempts=1,
            sent_ms=now_ms,
            started_ms=now_ms,
            finished_ms=now_ms,
            worker="host-4711-0a1b2c3d",
            value=msgspec.Raw(b'{"text":"valid text","status":"PROCESSED"}'),
        )
        for _ in range(count)
    ]


def run(url: str, fsync: str, batch: int, seconds: float, random_ids: bool) -> dict[str, float]:
    """Write for ``seconds``; return the rate, the CPU per outcome and the slowest batches' time."""
    store = open_store(url, base=Path.cwd(), fsync=fsync)
    assert store is not None
    store.write(outcomes(1, random_ids=random_ids))
    prepared = [outcomes(batch, random_ids=random_ids) for _ in range(max(20, 20_000 // batch))]
    times: list[float] = []
    spent = cpu = 0.0
    while spent < seconds:
        if not prepared:
            prepared = [outcomes(batch, random_ids=random_ids) for _ in range(max(20, 20_000 // batch))]
        one = prepared.pop()
        started, cpu_started = time.perf_counter(), time.thread_time()
        store.write(one)
        cpu += time.thread_time() - cpu_started
        times.append(time.perf_counter() - started)
        spent += times[-1]
    store.close()
    times.sort()
    count = len(times) * batch
    return {"rate": count / spent, "cpu_us": cpu / count * 1e6, "p99_ms": times[int(len(times) * 0.99)] * 1000}


def figure(folder: Path, kind: str, fsync: str, batch: int, processes: int, seconds: float, random_ids: bool) -> Row:
    """One line of the table: a fresh store, written by ``processes`` processes."""
    # A folder of its own, kept to the end: ext4 creates files slowly where many were just deleted.
    url = f"{kind}://{folder / new_id()}"
    if processes == 1:
        found = [run(url, fsync, batch, seconds, random_ids)]
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(run, url, fsync, batch, seconds, random_ids) for _ in range(processes)]
            found = [job.result() for job in jobs]
    return {
        "store": {"file": "SQLite", "json": "JSON files"}[kind] + (", random ids" if random_ids else ""),
        "fsync": fsync,
        "batch": batch,
        "processes": processes,
        "rate": round(sum(one["rate"] for one in found)),
        "cpu_us": round(sum(one["cpu_us"] for one in found) / len(found), 2),
        "p99_ms": round(max(one["p99_ms"] for one in found), 2),
    }


def figures(folder: Path, processes: int, seconds: float) -> Iterator[Row]:
    """All figures, one after the other."""
    for kind in ("file", "json"):
        for fsync in ("commit", "checkpoint"):
            for batch in BATCHES:
                yield figure(folder, kind, fsync, batch, 1, seconds, False)
            yield figure(folder, kind, fsync, 100, processes, seconds, False)
    yield figure(folder, "file", "checkpoint", 100, 1, seconds, True)


def main() -> None:
    """Print the figures as they come, then the table."""
    command = parser(__doc__, processes=2)
    command.add_argument("--seconds", type=float, default=2.0, help="time spent in writes per figure")
    command.add_argument("--folder", type=Path, help="where to write (a folder of its own is made in it)")
    options = command.parse_args()
    columns = [
        Column("rate", "outcomes/s"),
        Column("cpu_us", "CPU µs each", 2),
        Column("p99_ms", "slowest 1 % of batches from (ms)", 2),
    ]
    table = Figures(["store", "fsync", "batch", "processes"], columns, options.out)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="results-") as folder:
        for one in figures(Path(folder), options.processes, options.seconds):
            table.add(one)
    print(f"\n{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    table.show()


if __name__ == "__main__":
    main()
