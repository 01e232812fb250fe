"""How fast worker processes work off no-op events whose outcomes go to a disk with a slow fsync.

    python -m benchmarks.slow_disk [--count 100000] [--rounds 3] [--fsync-ms 10]

Needs a C compiler: tests/faulty_disk.c stands between SQLite and the disk and makes each fsync take exactly so long
(0: nothing, so only what the pool itself costs is left). One JSON line per figure, then a Markdown table of medians.
``outcomes/fsync`` is the size that batches grow to; ``subscriptions`` share one process and one database.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.drain import MODULES, cpu_s, write_app
from taskstream.broker import Broker
from taskstream.embedded import EmbeddedBroker
from taskstream.message import Message, new_id

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
disks = importlib.import_module("disks")

SCENARIOS = [(fsync, subs, procs) for fsync in ("commit", "checkpoint") for subs, procs in ((1, 1), (1, 2), (8, 1))]


def prepare(folder: Path, fsync: str, subscriptions: int) -> list[str]:
    """Write the app; return its streams."""
    write_app(folder, "noop-def", "file://results", fsync)
    events = {}
    for number in range(subscriptions):
        (folder / "bench_app" / f"noop_def_{number}.py").write_text(MODULES["noop_def"])
        stream = {"name": f"bench-{number}", "consumer_group": "bench-group"}
        events[f"noop-def-{number}"] = {"type": "STREAM", "read_stream": stream}
    config = {"app": {"name": "bench-app", "version": "1.0"}, "events": events}
    (folder / "config.json").write_text(json.dumps(config))
    return [f"bench-{number}" for number in range(subscriptions)]


def drain(folder: Path, url: str, streams: list[str], count: int, processes: int, disk: Any) -> dict[str, float]:
    """Messages per second, µs of worker CPU per message, outcomes per fsync."""
    broker = Broker(url)
    broker.client.flushall()
    body = b'{"sensor":"north-3","value":42}'
    for start in range(0, count, 500):
        broker.publish_many(
            [(streams[(start + n) % len(streams)], Message(new_id(), "Reading", body)) for n in range(500)]
        )

    def left() -> int:
        return sum(map(broker.stream_length, streams))

    count = left()
    pool = subprocess.Popen(
        [
            *(sys.executable, "-m", "taskstream.cli", "worker", "--config-files=server.json,config.json"),
            *("--processes", str(processes), "--broker", url, "-l", "WARNING"),
        ],
        cwd=folder,
        env={**os.environ, **disk.env},
        stderr=subprocess.DEVNULL,
    )
    try:
        supervisor = psutil.Process(pool.pid)
        while (first := left()) == count:
            time.sleep(0.002)
        started, cpu, synced = time.perf_counter(), cpu_s(supervisor), disk.fsyncs
        while left():
            time.sleep(0.005)
        elapsed = time.perf_counter() - started
        return {
            "per_s": round(first / elapsed),
            "cpu_us": round((cpu_s(supervisor) - cpu) / first * 1e6, 1),
            "outcomes_per_fsync": round(first / max(1, disk.fsyncs - synced)),
        }
    finally:
        pool.terminate()
        pool.wait()
        broker.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fsync-ms", type=int, default=10)
    options = parser.parse_args()
    found: dict[tuple[str, int, int, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as server:
        shim = disks.compiled_shim(Path(home))
        for _ in range(options.rounds):
            for fsync, subscriptions, processes in SCENARIOS:
                for ms in (0, options.fsync_ms):
                    with tempfile.TemporaryDirectory() as name:
                        folder = Path(name)
                        streams = prepare(folder, fsync, subscriptions)
                        disk = disks.FaultyDisk(folder / "results", shim, folder / "disk-control")
                        disk.set(fsync_ms=ms)
                        one = drain(folder, server.url, streams, options.count, processes, disk)
                    key = (fsync, subscriptions, processes, ms)
                    found.setdefault(key, []).append(one)
                    names = ("fsync", "subscriptions", "processes", "fsync_ms")
                    print(json.dumps(dict(zip(names, key, strict=True)) | one), flush=True)
    print("\n| fsync | subscriptions | processes | ms | messages/s | CPU µs a message | outcomes/fsync |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for key, runs in found.items():
        medians = [statistics.median(run[name] for run in runs) for name in runs[0]]
        print("| " + " | ".join(map(str, key)) + " | {:,.0f} | {:.1f} | {:,.0f} |".format(*medians))


if __name__ == "__main__":
    main()
