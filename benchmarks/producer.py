"""How fast a producer is: `delay()` and `enqueue_many` beside raw XADD through redis-py, in one interleaved run.

    python -m benchmarks.producer [--rounds 7] [--one 3000] [--many 30000] [--broker redis://…]

Raw means `client.xadd(stream, {"d": json.dumps(body)})`, one by one and in pipelines of 100, with hiredis. Each round
measures every way once, raw and ours one after the other, which is first turning from round to round, so that a busy
moment of the machine hits both alike; a figure is the median of the rounds, a share is of the raw way beside it. Starts
its own Valkey unless given a broker, whose streams `producer-benchmark` and `producer-benchmark-raw` it then deletes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import redis

from benchmarks.harness import Column, Figures, parser, server
from taskstream import Taskstream

STREAM = "producer-benchmark"
RAW = f"{STREAM}-raw"
TEXT = "hello world"
RAW_OF = {"delay()": "raw XADD", "enqueue_many": "raw XADD, pipelined"}


def noop(id: int, text: str) -> None:
    """The task that is sent; nothing runs it."""


def raw_pipelined(client: redis.Redis, count: int) -> None:
    """XADD in pipelines of 100."""
    for start in range(0, count, 100):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + 100, count)):
            pipeline.xadd(RAW, {"d": json.dumps({"id": number, "text": TEXT})})
        pipeline.execute()


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, rounds=7, one=3_000, many=30_000)
    command.add_argument("--broker", metavar="URL", help="a server to use instead of one of our own")
    options = command.parse_args()
    with server(options.broker) as url, redis.Redis.from_url(url) as client:
        app = Taskstream(STREAM, broker=url)
        task = app.task(noop)

        def one_by_one(send: Callable[[int], object]) -> None:
            for number in range(options.one):
                send(number)

        ways: dict[str, tuple[int, Callable[[], object]]] = {
            "raw XADD": (
                options.one,
                lambda: one_by_one(lambda n: client.xadd(RAW, {"d": json.dumps({"id": n, "text": TEXT})})),
            ),
            "delay()": (options.one, lambda: one_by_one(lambda n: task.delay(id=n, text=TEXT))),
            "raw XADD, pipelined": (options.many, lambda: raw_pipelined(client, options.many)),
            "enqueue_many": (
                options.many,
                lambda: app.enqueue_many(task.s(id=n, text=TEXT) for n in range(options.many)),
            ),
        }
        columns = [
            Column("per_s", "messages/s"),
            Column("share", "share of raw", 2),
            Column("cpu_us", "client CPU µs each", 1),
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
                figures.add({"way": name, **row, "share": row["per_s"] / found[RAW_OF.get(name, name)]["per_s"]})
            client.delete(STREAM, RAW)
        app.close()
    figures.show()


if __name__ == "__main__":
    main()
