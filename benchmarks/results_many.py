"""How the SQLite store behaves with very many outcomes: inserts, reads by id meanwhile, retention, size on disk.

    python -m benchmarks.results_many [--count 10000000] [--batch 500] [--fsync checkpoint] [--folder FOLDER]

One process writes batches as fast as it can; another reads outcomes by id, one after the other, all the while, each of
them at random among those written so far. Then a third one sweeps half of them away as a worker's janitor does (10,000
at a time, 0.1 s between), while the first writes on at a steady rate: its slowest batches say whether anybody has to
pause. One JSON line per phase.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import emit, parser, percentiles
from taskstream.results import SUCCESS, Outcome, open_store
from taskstream.results.base import ResultStore

RETENTION_S = 7 * 86_400.0
STEADY_PER_S = 2_000
SWEEP_COUNT = 10_000
SWEEP_PAUSE_S = 0.1
SHARES = (0.5, 0.99, 0.999)


def outcome(number: int, finished_ms: int) -> Outcome:
    """The outcome of a small task; its id is in the order and of the length of a UUIDv7."""
    text = f"{finished_ms:012x}{number:020x}"
    return Outcome(
        id=f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}",
        group="taskstream",
        handler="shop.thumbnail",
        state=SUCCESS,
        delivery=1,
        attempts=1,
        sent_ms=finished_ms - 20,
        started_ms=finished_ms - 10,
        finished_ms=finished_ms,
        worker="host-4711-0a1b2c3d",
        value=msgspec.Raw(b'{"text":"valid text","status":"PROCESSED"}'),
    )


def opened(folder: str, fsync: str) -> ResultStore:
    """The store."""
    store = open_store(f"file://{folder}", base=Path.cwd(), retention=RETENTION_S, fsync=fsync)
    assert store is not None
    return store


def finished_ms_of(number: int, count: int, now_ms: int) -> int:
    """The first half of the outcomes is past its retention, the rest is not."""
    age_s = RETENTION_S * (1.5 if number < count // 2 else 0.5)
    return int(now_ms - age_s * 1000 + number // 100)


def read_all_the_while(folder: str, fsync: str, written: Any, count: int, now_ms: int, stop: Event, out: Any) -> None:
    """Read outcomes by id until told to stop; report what that took."""
    store, chance, times = opened(folder, fsync), random.Random(1), []
    while not stop.is_set():
        if not written.value:
            time.sleep(0.01)
            continue
        number = chance.randrange(written.value)
        wanted = outcome(number, finished_ms_of(number, count, now_ms)).id
        started = time.perf_counter()
        found = store.read(wanted)
        times.append(time.perf_counter() - started)
        assert len(found) == 1, wanted
        time.sleep(0.001)
    store.close()
    out.put({"reads": len(times), **percentiles(times, *SHARES)})


def sweep(folder: str, fsync: str, now_ms: int, out: Any) -> None:
    """Delete what is past its retention, as a janitor does; report how long it took."""
    store, started, swept = opened(folder, fsync), time.perf_counter(), 0
    times = []
    while True:
        begun = time.perf_counter()
        found = store.sweep(now_ms, SWEEP_COUNT)
        times.append(time.perf_counter() - begun)
        swept += found
        if found < SWEEP_COUNT:
            break
        time.sleep(SWEEP_PAUSE_S)
    spent = time.perf_counter() - started
    store.close()
    rate = {"swept": swept, "seconds": round(spent, 1), "per_s": round(swept / spent)}
    out.put({**rate, "call": percentiles(times, *SHARES)})


def size_mb(folder: str) -> dict[str, float]:
    """Sizes of the files (MB)."""
    return {path.name: round(path.stat().st_size / 1e6, 1) for path in sorted(Path(folder).iterdir())}


def insert(store: ResultStore, options: argparse.Namespace, written: Any, now_ms: int) -> dict[str, object]:
    """Write all of them as fast as possible; the rates of each tenth."""
    rates, times = [], []
    tenth = options.count // 10
    for part in range(10):
        spent = 0.0
        for start in range(part * tenth, (part + 1) * tenth, options.batch):
            numbers = range(start, min(start + options.batch, (part + 1) * tenth))
            batch = [outcome(number, finished_ms_of(number, options.count, now_ms)) for number in numbers]
            begun = time.perf_counter()
            store.write(batch)
            times.append(time.perf_counter() - begun)
            spent += times[-1]
            written.value = start + len(batch)
        rates.append(round(tenth / spent))
        print(json.dumps({"written": written.value, "per_s": rates[-1]}), file=sys.stderr, flush=True)
    return {"per_s_by_tenth": rates, "batch": percentiles(times, *SHARES)}


def write_steadily(store: ResultStore, first: int, batch: int, until: multiprocessing.Process) -> dict[str, float]:
    """Write at a steady rate as long as ``until`` lives; what a batch took."""
    times, number = [], first
    while until.is_alive():
        now_ms = time.time_ns() // 1_000_000
        rows = [outcome(one, now_ms) for one in range(number, number + batch)]
        number += batch
        begun = time.perf_counter()
        store.write(rows)
        times.append(time.perf_counter() - begun)
        time.sleep(max(0.0, batch / STEADY_PER_S - times[-1]))
    return {"batches": len(times), **percentiles(times, *SHARES)}


def main() -> None:
    """Run the phases; print a line each."""
    command = parser(__doc__, count=10_000_000, batch=500)
    command.add_argument("--fsync", choices=("commit", "checkpoint"), default="checkpoint")
    command.add_argument("--folder", type=Path, help="where to write (a folder of its own is made in it)")
    options = command.parse_args()

    def tell(phase: str, found: Mapping[str, object]) -> None:
        emit({"phase": phase, **found}, options.out)

    now_ms = time.time_ns() // 1_000_000
    made = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="results-many-") as folder:
        store, written, stop, out = opened(folder, options.fsync), made.Value("q", 0), made.Event(), made.Queue()
        reader = made.Process(
            target=read_all_the_while, args=(folder, options.fsync, written, options.count, now_ms, stop, out)
        )
        reader.start()
        tell("insert", insert(store, options, written, now_ms))
        stop.set()
        tell("read by id meanwhile", out.get())
        reader.join()
        tell("size", {"mb": size_mb(folder)})
        sweeper = made.Process(target=sweep, args=(folder, options.fsync, now_ms, out))
        sweeper.start()
        writer = write_steadily(store, options.count, 20, sweeper)  # type: ignore[arg-type]
        tell("sweep", out.get())
        tell("write meanwhile, 20 a batch", writer)
        sweeper.join()
        store.close()
        tell("size after", {"mb": size_mb(folder)})
    print(f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")


if __name__ == "__main__":
    main()
