"""How fast no-op calls with arguments of 0.1, 1, 10 and 100 kB are sent and worked off.

    python -m benchmarks.payloads [--megabytes 40] [--most 40000] [--rounds 3] [--processes 1]

A round sends as many calls of each size as come to --megabytes (but at most --most) by ``enqueue_many``, and has a pool
work them off at log level WARNING, results off. Starts its own Valkey.
"""

from __future__ import annotations

import time

import redis

from benchmarks import apps
from benchmarks.harness import DRAINED, Column, Figures, parser, server, turns
from taskstream.broker import Broker

SIZES = {"0.1 kB": 100, "1 kB": 1_000, "10 kB": 10_000, "100 kB": 100_000}
FRAME = len('{"kwargs":{"id":12345,"text":""}}')
SENT = (Column("sent_per_s", "sent/s"), Column("sent_us", "producer CPU µs each", 1))


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, megabytes=40, most=40_000, rounds=3, processes=1).parse_args()
    figures = Figures(["payload"], [*SENT, *DRAINED, Column("mb_per_s", "MB/s", 1)], options.out)
    with server() as url, redis.Redis.from_url(url) as client:
        broker, text = Broker(url), apps.task_text()
        sender = apps.producer(text, url)
        for name in turns(SIZES, options):
            client.flushall()
            size = SIZES[name]
            count, filler = min(options.most, options.megabytes * 1_000_000 // size), "x" * (size - FRAME)
            begin, cpu = time.perf_counter(), time.process_time()
            sender.app.enqueue_many(sender.noop.s(id=number, text=filler) for number in range(count))
            sent = {
                "sent_per_s": count / (time.perf_counter() - begin),
                "sent_us": (time.process_time() - cpu) * 1e6 / count,
            }
            found = apps.work_off(broker, apps.task_app(text), "-A", "bench:app", processes=options.processes)
            figures.add({"payload": name, **sent, **found.row(), "mb_per_s": found.per_s * size / 1e6})
        sender.app.close()
        broker.close()
    figures.show()


if __name__ == "__main__":
    main()
