"""How fast worker processes work off no-op events whose outcomes go to a disk with a slow fsync.

    python -m benchmarks.slow_disk [--count 100000] [--rounds 3] [--fsync-ms 10]

Needs a C compiler: tests/faulty_disk.c stands between SQLite and the disk and makes each fsync take exactly so long
(0: nothing, so only what the pool itself costs is left). ``outcomes/fsync`` is the size that batches grow to;
``subscriptions`` share one process and one database.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis

from benchmarks import apps
from benchmarks.harness import DRAINED, Column, Figures, Row, app_folder, drained, fill, parser, pool, server
from taskstream.broker import Broker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
disks = importlib.import_module("disks")

SCENARIOS = [(fsync, subs, procs) for fsync in ("commit", "checkpoint") for subs, procs in ((1, 1), (1, 2), (8, 1))]


def measure(broker: Broker, shim: Path, count: int, fsync: str, subscriptions: int, processes: int, ms: int) -> Row:
    """One run: rates, and outcomes per fsync."""
    client: redis.Redis = broker.client
    client.flushall()
    streams = [f"bench-{number}" for number in range(subscriptions)]
    fill(broker, count, lambda number: apps.reading(streams[number % subscriptions]))
    with app_folder(apps.event_app("noop-def", "file://results", fsync, streams)) as folder:
        disk: Any = disks.FaultyDisk(folder / "results", shim, folder / "disk-control")
        disk.set(fsync_ms=ms)
        with pool(folder, broker.url, apps.CONFIG_FILES, processes=processes, environment=disk.env) as workers:
            found = drained(client, workers, lambda: sum(map(broker.stream_length, streams)))
            # Those of the start count, too: few beside the others.
            return {**found.row(), "outcomes_per_fsync": round(count / max(1, disk.fsyncs))}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=100_000, rounds=3, fsync_ms=10).parse_args()
    keys = ["fsync", "subscriptions", "processes", "fsync_ms"]
    figures = Figures(keys, [*DRAINED, Column("outcomes_per_fsync", "outcomes/fsync")], options.out)
    with tempfile.TemporaryDirectory() as place, server() as url:
        broker = Broker(url)
        shim = disks.compiled_shim(Path(place))
        for _ in range(options.rounds):
            for fsync, subscriptions, processes in SCENARIOS:
                for ms in (0, options.fsync_ms):
                    found = measure(broker, shim, options.count, fsync, subscriptions, processes, ms)
                    figures.add(dict(zip(keys, (fsync, subscriptions, processes, ms), strict=True)) | found)
        broker.close()
    figures.show()


if __name__ == "__main__":
    main()
