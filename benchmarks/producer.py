"""How fast a producer is: `delay()` and `enqueue_many` beside raw XADD through redis-py, in one interleaved run.

    python -m benchmarks.producer [--rounds 7] [--one 3000] [--many 30000] [--starts 5]

Raw means `client.xadd(stream, {"d": json.dumps(body)})`, one by one and in pipelines of 100, with hiredis. Each round
measures every way once, raw and ours one after the other, which is first turning from round to round, so that a busy
moment of the machine hits both alike; a figure is the median of the rounds, a share is of the raw way beside it.
`enqueue_many` is called with 100 at a time, too. `--starts` processes each import the app, send one message and end,
beside as many that import redis-py and send one by it. Starts its own Valkey unless given one with `--broker URL`,
whose streams `producer-benchmark` and `producer-benchmark-raw` it then deletes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import redis

from benchmarks.harness import Column, Figures, parser, server
from taskstream import Taskstream

STREAM = "producer-benchmark"
RAW = f"{STREAM}-raw"
TEXT = "hello world"
BATCH = 100
STARTS = {
    "redis-py, one XADD": """
import json, redis, sys
redis.Redis.from_url(sys.argv[1]).xadd(sys.argv[2], {"d": json.dumps({"id": 1, "text": "hello world"})})
""",
    "Taskstream, one delay()": """
import sys
from taskstream import Taskstream
app = Taskstream(sys.argv[2], broker=sys.argv[1])
@app.task
def noop(id: int, text: str) -> None: ...
noop.delay(id=1, text="hello world")
""",
}
RAW_OF = {"delay()": "raw XADD", "enqueue_many": "raw XADD, pipelined"}


def noop(id: int, text: str) -> None:
    """The task that is sent; nothing runs it."""


def raw_pipelined(client: redis.Redis, count: int) -> None:
    """XADD in pipelines of 100."""
    for start in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + BATCH, count)):
            pipeline.xadd(RAW, {"d": json.dumps({"id": number, "text": TEXT})})
        pipeline.execute()


def started(source: str, url: str) -> tuple[float, float]:
    """Wall time and CPU (s) of a fresh interpreter that sends one message."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", source, url, STREAM], check=True)
    elapsed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, rounds=7, one=3_000, many=30_000, starts=5)
    command.add_argument("--broker", metavar="URL", help="a server to use instead of one of our own")
    options = command.parse_args()
    with server(options.broker) as url, redis.Redis.from_url(url) as client:
        app = Taskstream(STREAM, broker=url)
        task = app.task(noop)

        def one_by_one(send: Callable[[int], object]) -> None:
            for number in range(options.one):
                send(number)

        def many() -> None:
            for start in range(0, options.many, BATCH):
                numbers = range(start, min(start + BATCH, options.many))
                app.enqueue_many(task.s(id=n, text=TEXT) for n in numbers)

        ways: dict[str, tuple[int, Callable[[], object]]] = {
            "raw XADD": (
                options.one,
                lambda: one_by_one(lambda n: client.xadd(RAW, {"d": json.dumps({"id": n, "text": TEXT})})),
            ),
            "delay()": (options.one, lambda: one_by_one(lambda n: task.delay(id=n, text=TEXT))),
            "raw XADD, pipelined": (options.many, lambda: raw_pipelined(client, options.many)),
            "enqueue_many": (options.many, many),
        }
        columns = [
            Column("per_s", "messages/s"),
            Column("share", "share of raw", 2),
            Column("cpu_us", "client CPU µs each", 1),
            Column("cpu_share", "CPU to raw", 2),
        ]
        figures = Figures(["way"], columns, options.out)
        found: dict[str, dict[str, float]] = {}
        for turn in range(options.rounds + 1):
            # Raw and ours one after the other, which is first turning from round to round.
            for name in ways if turn % 2 else ("delay()", "raw XADD", "enqueue_many", "raw XADD, pipelined"):
                count, run = ways[name]
                cpu, began = time.process_time(), time.perf_counter()
                run()
                elapsed, used = time.perf_counter() - began, time.process_time() - cpu
                if turn:  # the first round warms up
                    found[name] = {"per_s": count / elapsed, "cpu_us": used / count * 1e6}
            for name, row in found.items():
                raw = found[RAW_OF.get(name, name)]
                share, cpu_share = row["per_s"] / raw["per_s"], row["cpu_us"] / raw["cpu_us"]
                figures.add({"way": name, **row, "share": share, "cpu_share": cpu_share})
            client.delete(STREAM, RAW)
        app.close()
        starts = Figures(["process"], [Column("ms", "ms"), Column("cpu_ms", "CPU, ms")], options.out)
        for name in list(STARTS) * options.starts:
            elapsed, used = started(STARTS[name], url)
            starts.add({"process": name, "ms": elapsed * 1e3, "cpu_ms": used * 1e3})
            client.delete(STREAM)
    figures.show()
    starts.show()


if __name__ == "__main__":
    main()
