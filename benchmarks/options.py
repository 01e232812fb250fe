"""What each option of a task or a call costs, beside plain calls in the same turns.

    python -m benchmarks.options [--count 20000] [--rounds 3] [--processes 1] [--only plain --only timeout]

A round sends no-op calls by ``enqueue_many`` and has a pool work them off, results off, log level WARNING but for the
last case. Starts its own Valkey.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from benchmarks import apps
from benchmarks.harness import DRAINED, Column, Figures, parser, server, server_cpu_s, turns
from taskstream import keys
from taskstream.broker import Broker

MIDDLEWARE = """
from taskstream.middleware import Middleware


class Hook(Middleware):
    def before_run(self, run):
        return None
"""


class Case(NamedTuple):
    """What the task says, what each call says, what the module and the app have beside, and the worker's log level."""

    task: str = ""
    call: Callable[[int], dict[str, Any]] | None = None
    head: str = ""
    app: str = "results=None"
    level: str = "WARNING"


CASES = {
    "plain": Case(),
    "timeout": Case("timeout=60.0"),
    "hard_timeout": Case("hard_timeout=60.0"),
    "rate_limit": Case('rate_limit="1000000/s"'),
    "max_concurrency": Case("max_concurrency=1000"),
    "track_started": Case("track_started=True"),
    "middleware, one hook": Case(head=MIDDLEWARE, app="results=None, middleware=[Hook()]"),
    "headers": Case(call=lambda number: {"headers": {"tenant": "north-3"}}),
    "expires": Case(call=lambda number: {"expires": 3600}),
    "unique": Case("unique=True"),
    "idempotency_key": Case(call=lambda number: {"idempotency_key": f"key-{number}"}),
    "ordering_key, one each": Case(call=lambda number: {"ordering_key": f"key-{number}"}),
    "ordering_key, 100 of them": Case(call=lambda number: {"ordering_key": f"key-{number % 100}"}),
    "priority 0 to 9": Case(call=lambda number: {"priority": number % 10}),
    "log level INFO": Case(level="INFO"),
}
SENT = (
    Column("sent_us", "producer CPU µs each", 1),
    Column("sent_server_us", "server CPU µs each, sending", 1),
)


def send(sender: Any, client: redis.Redis, case: Case, count: int) -> dict[str, float]:
    """Send the calls; what that took."""
    begin, cpu, server_s = time.perf_counter(), time.process_time(), server_cpu_s(client)
    calls = (sender.noop.s(id=number, text="hello world") for number in range(count))
    chosen = case.call
    if chosen is not None:
        calls = (signature.set(**chosen(number)) for number, signature in enumerate(calls))
    sender.app.enqueue_many(calls)
    return {
        "sent_per_s": count / (time.perf_counter() - begin),
        "sent_us": (time.process_time() - cpu) * 1e6 / count,
        "sent_server_us": (server_cpu_s(client) - server_s) * 1e6 / count,
    }


def left(broker: Broker) -> int:
    """Calls that are not done, those that wait for their turn or a slot among them."""
    client: redis.Redis = broker.client
    waiting = int(client.hget(keys.ordered(apps.QUEUE), "") or 0)
    parked = sum(int(client.llen(name)) for name in client.keys("ts:*:parked:*"))
    return apps.left(broker) + waiting + parked


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=20_000, rounds=3, processes=1).parse_args()
    figures = Figures(["option"], [*SENT, *DRAINED], options.out)
    with server() as url, redis.Redis.from_url(url) as client:
        broker = Broker(url)
        for name in turns(CASES, options):
            case = CASES[name]
            client.flushall()
            text = apps.task_text(case.app, case.task, head=case.head)
            sender = apps.producer(text, url)
            sent = send(sender, client, case, options.count)
            found = apps.work_off(
                broker,
                apps.task_app(text),
                *("-A", "bench:app"),
                processes=options.processes,
                level=case.level,
                count_left=lambda: left(broker),
            )
            sender.app.close()
            figures.add({"option": name, **sent, **found.row()})
        broker.close()
    figures.show()


if __name__ == "__main__":
    main()
