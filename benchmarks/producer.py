"""How fast a producer is: `delay()` and `enqueue_many` beside raw XADD through redis-py, in one interleaved run.

    python benchmarks/producer.py [--rounds 7] [--one 3000] [--many 30000] [--broker redis://…]

Raw means `client.xadd(stream, {"d": json.dumps(body)})`, one by one and in pipelines of 100, with hiredis. Each round
measures every way once, in an order that turns, so that a busy moment of the machine hits all alike; a figure is the
median of the rounds, a share is of the raw way beside it. Starts its own Valkey unless given a broker, whose streams
`producer-benchmark` and `producer-benchmark-raw` it then deletes. One JSON line per figure, then a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from taskstream import Taskstream
from taskstream.embedded import EmbeddedBroker

STREAM = "producer-benchmark"
RAW = f"{STREAM}-raw"
TEXT = "hello world"


def noop(id: int, text: str) -> None:
    """The task that is sent; nothing runs it."""


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """The URL of a server: the one given, or one of our own."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder)) as broker:
        yield broker.url


def raw_pipelined(client: redis.Redis, count: int) -> None:
    """XADD in pipelines of 100."""
    for start in range(0, count, 100):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + 100, count)):
            pipeline.xadd(RAW, {"d": json.dumps({"id": number, "text": TEXT})})
        pipeline.execute()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", type=int, default=3_000, help="messages sent one by one in a round")
    parser.add_argument("--many", type=int, default=30_000, help="messages sent together in a round")
    parser.add_argument("--broker")
    options = parser.parse_args()
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
        rates: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        order = list(ways)
        for turn in range(options.rounds + 1):
            for name in order:
                count, run = ways[name]
                cpu_before, before = time.process_time(), time.perf_counter()
                run()
                elapsed, used = time.perf_counter() - before, time.process_time() - cpu_before
                if turn:  # the first round warms up
                    rates[name].append(count / elapsed)
                    cpu[name].append(used / count * 1e6)
            order = order[1:] + order[:1]
            client.delete(STREAM, RAW)
        app.close()

    table = ["| way | messages/s | share of raw | CPU of the client, µs a message |", "| --- | --- | --- | --- |"]
    for raw, ours in (("raw XADD", "delay()"), ("raw XADD, pipelined", "enqueue_many")):
        for name in (raw, ours):
            rate, spent = statistics.median(rates[name]), statistics.median(cpu[name])
            share = statistics.median(a / b for a, b in zip(rates[name], rates[raw], strict=True))
            figure = {"way": name, "per_s": round(rate), "share": round(share, 3), "cpu_us": round(spent, 1)}
            print(json.dumps(figure))
            table.append(f"| {name} | {rate:,.0f} | {share:.0%} | {spent:.1f} |")
    print("\n".join(["", *table]))


if __name__ == "__main__":
    main()
