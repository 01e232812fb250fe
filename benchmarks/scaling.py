"""How rates change with worker processes, with calls at a time, with ``def`` and ``async def``, and with kept results.

    python -m benchmarks.scaling [--count 60000] [--sleeps 20000] [--rounds 3] [--only slots]

processes  1, 2, 4 and 8 of them, 100 calls at a time in each
slots      1 to 1,000 calls at a time in one process: no-ops, and calls that wait for 20 ms
kinds      no-ops by ``def``, by ``async def`` without and with an ``await``, in one process
results    of no-ops in one process: off, SQLite by batch (checkpoint, commit), one JSON file each

Log level WARNING. Starts its own Valkey. Results are written below the folder for temporary files.
"""

from __future__ import annotations

from typing import NamedTuple

import redis

from benchmarks import apps
from benchmarks.harness import DRAINED, Figures, fill, parser, server, turns
from taskstream.broker import Broker

IMPORTS = "import asyncio\nimport time\n"
SLEEP_S = 0.02


class Case(NamedTuple):
    """A module, the pool's size, and whether its calls wait."""

    text: str
    processes: int = 1
    slots: int = 100
    sleeps: bool = False


NOOP = apps.task_text()
SLEEP = apps.task_text(head=IMPORTS, body=f"time.sleep({SLEEP_S})")
ASYNC_SLEEP = apps.task_text(head=IMPORTS, define="async def", body=f"await asyncio.sleep({SLEEP_S})")
CASES = {
    **{f"processes: {number}": Case(NOOP, processes=number) for number in (1, 2, 4, 8)},
    **{f"slots: {slots}, no-op": Case(NOOP, slots=slots) for slots in (1, 10, 100, 1_000)},
    **{f"slots: {slots}, sleep": Case(SLEEP, slots=slots, sleeps=True) for slots in (1, 10, 100, 1_000)},
    **{f"slots: {slots}, async sleep": Case(ASYNC_SLEEP, slots=slots, sleeps=True) for slots in (100, 1_000)},
    "kinds: def": Case(NOOP),
    "kinds: async def": Case(apps.task_text(define="async def")),
    "kinds: async def that awaits": Case(
        apps.task_text(head=IMPORTS, define="async def", body="await asyncio.sleep(0)")
    ),
    "results: off": Case(NOOP),
    "results: SQLite, checkpoint": Case(apps.task_text('results="file://results", result_fsync="checkpoint"')),
    "results: SQLite, commit": Case(apps.task_text('results="file://results", result_fsync="commit"')),
    "results: one file each, checkpoint": Case(apps.task_text('results="json://results", result_fsync="checkpoint"')),
}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=60_000, sleeps=20_000, rounds=3).parse_args()
    figures = Figures(["case"], DRAINED, options.out)
    with server() as url, redis.Redis.from_url(url) as client:
        broker = Broker(url)
        for name in turns(CASES, options):
            case = CASES[name]
            client.flushall()
            # So that a call at a time takes seconds, not minutes.
            count = min(options.sleeps, case.slots * 200) if case.sleeps else options.count
            fill(broker, count, lambda number: (apps.QUEUE, apps.call(number)))
            wanted = ("-A", "bench:app", "--concurrency", str(case.slots))
            found = apps.work_off(broker, apps.task_app(case.text), *wanted, processes=case.processes)
            figures.add({"case": name, **found.row()})
        broker.close()
    figures.show()


if __name__ == "__main__":
    main()
