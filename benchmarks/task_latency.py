"""How long a call takes from being sent to the first line of its task, and to ``get()`` having returned, idle and busy.

    python -m benchmarks.task_latency [--count 500] [--rounds 3] [--loads 0,10,50,90] [--fsync checkpoint,commit]

Two worker processes, results on disk, log level WARNING. Calls go out at 50 a second (for ``get``: one after the other,
as often at most), while another process sends no-ops at a share of what the pool does when it always has work: the
capacity, measured first, with that sender running.
"""

from __future__ import annotations

import multiprocessing
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from benchmarks import apps
from benchmarks.harness import Column, Figures, Pool, Row, app_folder, parser, percentiles, pool, server, turns, until
from taskstream.broker import Broker

PROCESSES = 2
PER_SECOND = 50.0
TICK_S = 0.005
BACKLOG = 5_000
"""Messages that wait at most while the capacity is measured."""
CAPACITY_S = 5.0
SETTLE_S = 1.0
RECORD = struct.Struct("<Idd")
TASK = """

import os
import struct
import time

log = os.open("starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@app.task
def timed(id: int, sent: float) -> int:
    os.write(log, struct.pack("<Idd", id, sent, time.monotonic()))
    return id + 1
"""


def flood(url: str, per_s: float | None) -> None:
    """Send no-ops at a steady rate, or (None) so many that some always wait, until this process is ended."""
    broker = Broker(url)
    begin, sent = time.monotonic(), 0
    while True:
        if per_s is None:
            wanted = max(0, BACKLOG - apps.left(broker))
        else:
            wanted = int((time.monotonic() - begin) * per_s) - sent
        for start in range(0, wanted, 500):
            broker.publish_many([("bench", apps.call(n)) for n in range(start, min(start + 500, wanted))])
        sent += wanted
        time.sleep(TICK_S)


@contextmanager
def flooded(url: str, per_s: float | None) -> Iterator[None]:
    """Another process sends for as long as this lasts."""
    process = multiprocessing.get_context("spawn").Process(target=flood, args=(url, per_s), daemon=True)
    process.start()
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        process.terminate()
        process.join()


def capacity(broker: Broker, url: str) -> float:
    """No-ops a second with work waiting all the time."""
    with flooded(url, None):
        before, begin = done(broker), time.monotonic()
        time.sleep(CAPACITY_S)
        found = (done(broker) - before) / (time.monotonic() - begin)
    return found


def done(broker: Broker) -> int:
    """Messages of the queue that were ever sent and are not there any more."""
    added = broker.client.xinfo_stream("bench")["entries-added"]
    return int(added) - apps.left(broker)


def paced(count: int, send: Callable[[int], float]) -> list[float]:
    """What ``send`` returns for each of ``count`` calls, PER_SECOND of them a second at most."""
    begin = time.monotonic()
    found = []
    for number in range(count):
        time.sleep(max(0.0, begin + number / PER_SECOND - time.monotonic()))
        found.append(send(number))
    return found


def to_start(bench: ModuleType, started: Pool, count: int) -> list[float]:
    """Seconds from before ``delay()`` to the first line of the task."""
    path = started.folder / "starts"
    path.unlink(missing_ok=True) if not path.exists() else path.write_bytes(b"")

    def send(number: int) -> float:
        bench.timed.delay(number, time.monotonic())
        return 0.0

    paced(count, send)
    until(lambda: path.stat().st_size >= count * RECORD.size, "all have started", started)
    return [start - sent for _, sent, start in RECORD.iter_unpack(path.read_bytes())]


def to_get(bench: ModuleType, count: int) -> list[float]:
    """Seconds from before ``delay()`` to ``get()`` having returned."""

    def call(number: int) -> float:
        sent = time.monotonic()
        if bench.timed.delay(number, sent).get(timeout=60) != number + 1:
            raise SystemExit("a wrong result")
        return time.monotonic() - sent

    return paced(count, call)


def measure(figures: Figures, url: str | None, fsync: str, loads: list[int], count: int) -> None:
    """One round with a server, an app and a pool of its own."""
    with server(url) as where, app_folder({}) as folder:
        options = f'results="file://{folder / "results"}", result_fsync="{fsync}"'
        text = apps.task_text(options, task="ignore_result=True", more=TASK)
        (folder / "bench.py").write_text(text, encoding="utf-8")
        with pool(folder, where, "-A", "bench:app", processes=PROCESSES) as started:
            bench = apps.producer(text.replace('"starts"', f'"{Path(folder) / "sender"}"'), where)
            broker = Broker(where)
            to_get(bench, 50)
            most = capacity(broker, where) if any(loads) else 0.0
            until(lambda: apps.left(broker) == 0, "what was left is done", started)
            for load in loads:
                said: Row = {"fsync": fsync, "load": f"{load} %" if load else "idle", "per_s": most * load / 100}
                if load:
                    with flooded(where, most * load / 100):
                        found = {"start": to_start(bench, started, count), "get": to_get(bench, count)}
                else:
                    found = {"start": to_start(bench, started, count), "get": to_get(bench, count)}
                for until_what, seconds in found.items():
                    figures.add({**said, "until": until_what, **percentiles(seconds)})
                until(lambda: apps.left(broker) == 0, "what was left is done", started)
            bench.app.close()
            broker.close()


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=500, rounds=1)
    options.add_argument("--loads", default="0,10,50,90", help="percent of the capacity; 0 is idle")
    options.add_argument("--fsync", default="checkpoint,commit")
    options.add_argument("--url", help="a server that runs, instead of an embedded Valkey")
    given = options.parse_args()
    columns = (
        Column("per_s", "other messages/s"),
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("max_ms", "max ms", 2),
    )
    figures = Figures(("fsync", "load", "until"), columns, given.out)
    loads = [int(load) for load in given.loads.split(",")]
    for fsync in turns(given.fsync.split(","), given.rounds):
        measure(figures, given.url, fsync, loads, given.count)
    figures.show()


if __name__ == "__main__":
    main()
