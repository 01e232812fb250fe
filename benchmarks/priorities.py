"""What priorities cost: sending and working off no-op calls without any, with one among them, and with all ten mixed.

    python benchmarks/priorities.py [--count 100000] [--rounds 3] [--processes 1] [--concurrency 100]

Each round fills a queue of an embedded Valkey, 500 calls in a round trip, starts `taskstream worker` at log level
WARNING and measures from the first call that is done to the last. One JSON line per figure, then a Markdown table of
medians. CPU of workers and server says more than the rates where something else runs beside.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from taskstream import keys
from taskstream.broker import Broker, Envelope
from taskstream.embedded import EmbeddedBroker
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, encode_json, new_id

APP = """
from taskstream import Taskstream

app = Taskstream("bench", results=None)


@app.task
def noop(number: int) -> None:
    return None
"""

SCENARIOS: dict[str, Callable[[int], int]] = {
    "no priority": lambda number: 5,
    "one call of priority 0 among them": lambda number: 0 if number == 0 else 5,
    "priorities 0 to 9, mixed": lambda number: random.randrange(10),
}


class Figures(NamedTuple):
    """Calls sent and worked off in a second; µs of CPU for each: the server's for both, the worker processes'."""

    sent_per_s: float
    done_per_s: float
    sent_server_us: float
    done_server_us: float
    done_worker_us: float


def fill(broker: Broker, count: int, priority: Callable[[int], int]) -> float:
    """Put ``count`` calls on the queue; return how many in a second."""
    body = encode_json({"args": [42]})
    started = time.perf_counter()
    for start in range(0, count, 500):
        broker.publish_many(
            [
                Envelope("bench", Message(new_id(), "bench.noop", body, priority=priority(number)))
                for number in range(start, min(start + 500, count))
            ]
        )
    return count / (time.perf_counter() - started)


def server_s(broker: Broker) -> float:
    """CPU of the server so far."""
    found = broker.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def left(broker: Broker) -> int:
    """Calls that are not done."""
    waiting = broker.client.zcard(keys.ranked("bench", QUEUE_GROUP))
    own = broker.stream_length(keys.again("bench", QUEUE_GROUP))
    return broker.stream_length("bench") + own + int(waiting)


def cpu_s(supervisor: psutil.Process) -> float:
    """CPU of the worker processes so far."""
    return sum(sum(child.cpu_times()[:2]) for child in supervisor.children(recursive=True))


def round_of(url: str, options: argparse.Namespace, priority: Callable[[int], int]) -> Figures:
    """Fill the queue and work it off."""
    broker = Broker(url)
    broker.client.flushall()
    before = server_s(broker)
    sent = fill(broker, options.count, priority)
    sent_server = server_s(broker) - before
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench.py").write_text(APP)
        pool = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "taskstream.cli",
                    "worker",
                    "-A",
                    "bench:app",
                    "--broker",
                    url,
                    "-l",
                    "WARNING",
                ),
                *("--processes", str(options.processes), "--concurrency", str(options.concurrency)),
            ],
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        try:
            supervisor = psutil.Process(pool.pid)
            while (first := left(broker)) == options.count:
                time.sleep(0.002)
            started, cpu, server = time.perf_counter(), cpu_s(supervisor), server_s(broker)
            while left(broker):
                time.sleep(0.02)
            elapsed = time.perf_counter() - started
            cpu, server = cpu_s(supervisor) - cpu, server_s(broker) - server
        finally:
            pool.terminate()
            pool.wait()
            broker.close()
    micro = 1e6 / first
    return Figures(sent, first / elapsed, sent_server * 1e6 / options.count, server * micro, cpu * micro)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=100)
    options = parser.parse_args()
    figures: dict[str, list[Figures]] = {name: [] for name in SCENARIOS}
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as server:
        for _ in range(options.rounds):
            for name, priority in SCENARIOS.items():
                found = round_of(server.url, options, priority)
                figures[name].append(found)
                said = {name: round(value, 1) for name, value in found._asdict().items()}
                print(json.dumps({"scenario": name, **said}), flush=True)
    print(f"\n| {options.processes} process(es), {options.concurrency} slots each | {' | '.join(Figures._fields)} |")
    print(f"|---|{'---:|' * len(Figures._fields)}")
    for name, runs in figures.items():
        medians = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {name} | {' | '.join(f'{value:,.1f}' for value in medians)} |")


if __name__ == "__main__":
    main()
