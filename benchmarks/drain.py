"""How fast one worker process works off STREAM events: no-ops, and events that save a file each.

    python benchmarks/drain.py [--count 200000] [--files 30000] [--rounds 3] [--processes 1]

Each round fills a stream of an embedded Valkey, starts `taskstream worker` at log level WARNING and measures from the
first acknowledged message to the last. The app is written into a temporary folder: `def` and `async def` no-op events
with results off, with every result on disk, and an `async def` event that keeps its value with FileStorage. One
JSON line per figure, then a Markdown table of medians; CPU is that of the worker processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from taskstream.broker import Broker
from taskstream.embedded import EmbeddedBroker
from taskstream.message import Message, new_id

STREAM = "bench-stream"
GROUP = "bench-group"

MODULES = {
    "__init__": "",
    "data": """
from taskstream.dataobjects import dataobject


@dataobject
class Reading:
    sensor: str
    value: int
""",
    "noop_def": """
from taskstream.app.context import EventContext

from .data import Reading

__steps__ = ["run"]


def run(reading: Reading, context: EventContext) -> None:
    return None
""",
    "noop_async": """
from taskstream.app.context import EventContext

from .data import Reading

__steps__ = ["run"]


async def run(reading: Reading, context: EventContext) -> None:
    return None
""",
    "save_file": """
from taskstream.app.context import EventContext
from taskstream.message import new_id
from taskstream.toolkit.storage.fs import FileStorage

from .data import Reading

__steps__ = ["run"]

output = FileStorage(path="saved")


async def run(reading: Reading, context: EventContext) -> None:
    await output.store(key=new_id(), value=reading)
""",
}

SCENARIOS = {
    "no-op, def, results off": ("noop-def", "null", "count"),
    "no-op, async def, results off": ("noop-async", "null", "count"),
    "no-op, def, results on disk (checkpoint)": ("noop-def", "file://results", "count"),
    "no-op, def, results on disk (commit)": ("noop-def", "file://results", "count"),
    "one FileStorage file each, results off": ("save-file", "null", "files"),
}


def write_app(folder: Path, event: str, results: str, fsync: str) -> None:
    """An event app with one STREAM event."""
    package = folder / "bench_app"
    package.mkdir()
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text)
    config = {
        "app": {"name": "bench-app", "version": "1.0"},
        "events": {event: {"type": "STREAM", "read_stream": {"name": STREAM, "consumer_group": GROUP}}},
    }
    server = {"logging": {"log_level": "WARNING"}, "results": {"url": results, "fsync": fsync}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "server.json").write_text(json.dumps(server))


def fill(broker: Broker, count: int) -> None:
    """Put ``count`` messages on the stream."""
    body = b'{"sensor":"north-3","value":42}'
    for start in range(0, count, 500):
        broker.publish_many([(STREAM, Message(new_id(), "Reading", body)) for _ in range(min(500, count - start))])


def cpu_s(supervisor: psutil.Process) -> float:
    """CPU of the worker processes so far."""
    return sum(sum(child.cpu_times()[:2]) for child in supervisor.children(recursive=True))


def drain(folder: Path, url: str, count: int, processes: int) -> tuple[float, float]:
    """Messages per second and µs of worker CPU per message."""
    broker = Broker(url)
    broker.client.flushall()
    fill(broker, count)
    pool = subprocess.Popen(
        [
            *(sys.executable, "-m", "taskstream.cli", "worker", "--config-files=server.json,config.json"),
            *("--processes", str(processes), "--broker", url, "-l", "WARNING"),
        ],
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    try:
        supervisor = psutil.Process(pool.pid)
        while (first := broker.stream_length(STREAM)) == count:
            time.sleep(0.002)
        started, cpu = time.perf_counter(), cpu_s(supervisor)
        while broker.stream_length(STREAM):
            time.sleep(0.005)
        elapsed = time.perf_counter() - started
        return first / elapsed, (cpu_s(supervisor) - cpu) / first * 1e6
    finally:
        pool.terminate()
        pool.wait()
        broker.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in SCENARIOS}
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as server:
        for _ in range(options.rounds):
            for name, (event, results, size) in SCENARIOS.items():
                with tempfile.TemporaryDirectory() as folder:
                    write_app(Path(folder), event, results, "checkpoint" if "checkpoint" in name else "commit")
                    rate, cpu = drain(Path(folder), server.url, getattr(options, size), options.processes)
                figures[name].append((rate, cpu))
                print(json.dumps({"scenario": name, "per_s": round(rate), "cpu_us": round(cpu, 2)}), flush=True)
    print(f"\n| {options.processes} worker process(es) | messages/s | CPU µs a message | range |\n|---|---:|---:|---:|")
    for name, runs in figures.items():
        rates = [rate for rate, _ in runs]
        cpu = statistics.median(cpu for _, cpu in runs)
        print(f"| {name} | {statistics.median(rates):,.0f} | {cpu:.1f} | {min(rates):,.0f}-{max(rates):,.0f} |")


if __name__ == "__main__":
    main()
