"""How fast worker processes work off STREAM events: no-ops, and events that save a file each.

    python -m benchmarks.drain [--count 200000] [--files 30000] [--rounds 3] [--processes 1]

Each round fills a stream of an embedded Valkey, starts `taskstream worker` at log level WARNING and measures what comes
after the first tenth: `def` and `async def` no-op events with results off, with every result on disk, and an
`async def` event that keeps its value with FileStorage.
"""

from __future__ import annotations

import functools

import redis

from benchmarks import apps
from benchmarks.harness import DRAINED, Figures, fill, parser, server, turns
from taskstream.broker import Broker

SCENARIOS = {
    "no-op, def, results off": ("noop-def", "null", "commit"),
    "no-op, async def, results off": ("noop-async", "null", "commit"),
    "no-op, def, results on disk (checkpoint)": ("noop-def", "file://results", "checkpoint"),
    "no-op, def, results on disk (commit)": ("noop-def", "file://results", "commit"),
    "one FileStorage file each, results off": ("save-file", "null", "commit"),
}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=200_000, files=30_000, rounds=3, processes=1).parse_args()
    figures = Figures(["scenario"], DRAINED, options.out)
    with server() as url, redis.Redis.from_url(url) as client:
        broker = Broker(url)
        for name in turns(SCENARIOS, options):
            event, results, fsync = SCENARIOS[name]
            client.flushall()
            fill(broker, options.files if event == "save-file" else options.count, lambda number: apps.reading())
            files, left = apps.event_app(event, results, fsync), functools.partial(broker.stream_length, apps.STREAM)
            found = apps.work_off(broker, files, apps.CONFIG_FILES, processes=options.processes, count_left=left)
            figures.add({"scenario": name, "processes": options.processes, **found.row()})
        broker.close()
    figures.show()


if __name__ == "__main__":
    main()
