"""What priorities cost: sending and working off no-op calls without any, with one among them, and with all ten mixed.

    python -m benchmarks.priorities [--count 100000] [--rounds 3] [--processes 1] [--concurrency 100]

Each round fills a queue of an embedded Valkey, 500 calls in a round trip, starts `taskstream worker` at log level
WARNING and measures what comes after the first tenth. CPU of workers and server says more than the rates where
something else runs beside.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import redis

from benchmarks import apps
from benchmarks.harness import DRAINED, Column, Figures, fill, parser, server, server_cpu_s, turns
from taskstream.broker import Broker, Envelope

SCENARIOS: dict[str, Callable[[int], int]] = {
    "no priority": lambda number: 5,
    "one call of priority 0 among them": lambda number: 0 if number == 0 else 5,
    "priorities 0 to 9, mixed": lambda number: random.randrange(10),
}
SENT = (Column("sent_per_s", "sent/s"), Column("sent_server_us", "server CPU µs each, sending", 1))


def send(broker: Broker, count: int, rank: Callable[[int], int]) -> dict[str, float]:
    """Fill the queue with calls of these priorities; what that took."""
    cpu, begin = server_cpu_s(broker.client), time.perf_counter()
    fill(broker, count, lambda number: Envelope(apps.QUEUE, apps.call(number, priority=rank(number))))
    elapsed = time.perf_counter() - begin
    return {
        "sent_per_s": count / elapsed,
        "sent_server_us": (server_cpu_s(broker.client) - cpu) * 1e6 / count,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=100_000, rounds=3, processes=1, concurrency=100).parse_args()
    figures = Figures(["scenario"], [*SENT, *DRAINED], options.out)
    with server() as url, redis.Redis.from_url(url) as client:
        broker = Broker(url)
        for name in turns(SCENARIOS, options):
            client.flushall()
            sent = send(broker, options.count, SCENARIOS[name])
            wanted = ("-A", "bench:app", "--concurrency", str(options.concurrency))
            found = apps.work_off(broker, apps.task_app(), *wanted, processes=options.processes)
            figures.add({"scenario": name, **sent, **found.row()})
        broker.close()
    figures.show()


if __name__ == "__main__":
    main()
