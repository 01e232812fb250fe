"""Whether anything becomes slower with what has piled up: a pool works off the same number of no-op calls beside more
and more of it.

    python -m benchmarks.growth [--count 40000] [--rounds 3] [--only waiting --only "dead 0"] [--most 10000000]

waiting    others that wait behind them in the stream, 10² to 10⁷ (10⁷ take 1.5 GB)
groups     groups that all consume one stream of events, 1 to 50; a message counts once for each group
consumers  other living consumers of the group, 1 to 10,000
delayed    10² to 10⁶ delayed calls that become due the moment the calls are worked off, and are worked off as well
dead       dead letters of the group, 0 to 10⁶
latency    how long single calls wait (100 a second) while up to 10⁶ delayed ones become due and are worked off

Figures are rates and, steadier where something else runs beside, CPU of the workers and of the server for each message.
What piles up is written by scripts in the server, in the form the product gives it. Starts its own Valkey, without its
append-only file.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis

from benchmarks import apps
from benchmarks.harness import (
    DRAINED,
    Column,
    Figures,
    Pool,
    Row,
    app_folder,
    chosen,
    fill,
    parser,
    percentiles,
    pool,
    server,
    until,
)
from taskstream import keys
from taskstream.broker import Broker
from taskstream.broker.group import ConsumerGroup
from taskstream.handler import QUEUE_GROUP
from taskstream.message import encode_json, fields_of

PIECE = 5_000
"""Entries that one script writes, so that the server is not gone for long."""
LATENCY_PER_S = 100

_STREAM = """
for i = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  local fields = cjson.decode(ARGV[3])
  fields[tonumber(ARGV[4])] = string.format('01900000-0000-7000-8000-%012d', i)
  redis.call('XADD', KEYS[1], '*', unpack(fields))
end
"""
_DELAYED = """
for i = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  local fields = cjson.decode(ARGV[3])
  fields[tonumber(ARGV[4])] = string.format('01900000-0000-7000-8000-%012d', i)
  redis.call('ZADD', KEYS[1], ARGV[5], cjson.encode(fields))
end
"""
_DEAD = """
for i = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  local id = string.format('01900000-0000-7000-8000-%012d', i)
  redis.call('ZADD', KEYS[1], ARGV[3], id)
  redis.call('HSET', KEYS[2], id, ARGV[4])
end
"""
TASKS = apps.task_text(
    more="""
import os
import time

log = os.open("timed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@app.task
def timed(sent: float) -> None:
    os.write(log, b"%.6f\\\\n" % (time.time() - sent))
""".replace("\\\\n", "\\n")
)


class Growth:
    """One server, and what is piled up on it."""

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.count = count
        self.broker = Broker(url)
        self.client = redis.Redis.from_url(url)  # more patient than the broker's: to forget 10⁷ messages takes seconds
        # Rewrites of the file copy the whole memory, and what they cost the server depends on when they happen.
        self.client.config_set("appendonly", "no")

    def pile(self, script: str, names: list[str], count: int, *arguments: object) -> None:
        """Run a script for 0 to ``count`` - 1, a piece at a time."""
        for start in range(0, count, PIECE):
            size = min(PIECE, count - start)
            self.client.eval(script, len(names), *names, str(start), str(size), *map(str, arguments))

    def calls(self, count: int) -> None:
        """Put calls on the queue, as a producer would."""
        fill(self.broker, count, lambda number: (apps.QUEUE, apps.call(number)))

    def form(self) -> tuple[str, int]:
        """The fields of a call as JSON, and the place of its id in them, from 1."""
        message = apps.call(1)
        fields = [field.decode() if isinstance(field, bytes) else str(field) for field in fields_of(message)]
        return json.dumps(fields), fields.index(message.id) + 1

    def delayed(self, count: int, in_s: float) -> None:
        """Put delayed calls beside the queue, due ``in_s`` from now on."""
        form, place = self.form()
        due_ms = int((time.time() + in_s) * 1000)
        self.pile(_DELAYED, [keys.delayed(apps.QUEUE, QUEUE_GROUP)], count, form, place, due_ms)

    def left_with_delayed(self) -> int:
        """Calls that are not done, delayed ones among them."""
        return apps.left(self.broker) + int(self.client.zcard(keys.delayed(apps.QUEUE, QUEUE_GROUP)))

    def worked_off(self, left: Callable[[], int] | None = None, leave: int = 0) -> Row:
        """Start a pool and measure it."""
        return apps.work_off(self.broker, apps.task_app(), "-A", "bench:app", count_left=left, leave=leave).row()

    def waiting(self, size: int) -> Row:
        """``size`` calls behind those that are measured."""
        self.calls(self.count)
        form, place = self.form()
        self.pile(_STREAM, [apps.QUEUE], size, form, place)
        return self.worked_off(leave=size)

    def groups(self, size: int) -> Row:
        """``size`` groups of one stream of events."""
        files = apps.event_app("noop-def", "null", "commit", [apps.STREAM] * size)
        config = files["config.json"]
        assert isinstance(config, dict)
        events = config["events"]
        assert isinstance(events, dict)
        for number, event in enumerate(events.values()):
            event["read_stream"]["consumer_group"] = f"group-{number}"
        messages = self.count // size
        for number in range(size):
            self.client.xgroup_create(apps.STREAM, f"group-{number}", id="0", mkstream=True)
        fill(self.broker, messages, lambda number: apps.reading())

        def left() -> int:
            total = 0
            for group in self.client.xinfo_groups(apps.STREAM):
                read = group["entries-read"]
                total += messages - (0 if read is None else int(read)) + int(group["pending"])
            return total

        return apps.work_off(self.broker, files, apps.CONFIG_FILES, count_left=left).row()

    def consumers(self, size: int) -> Row:
        """``size`` other consumers whose leases hold."""
        for number in range(size):
            group = ConsumerGroup(apps.QUEUE, QUEUE_GROUP, f"other-{number}", 3_600_000)
            group.register(self.broker.call)
        self.calls(self.count)
        return self.worked_off()

    def due(self, size: int) -> Row:
        """``size`` delayed calls due at once, worked off together with the others."""
        self.calls(self.count)
        self.delayed(size, 0.0)
        return self.worked_off(self.left_with_delayed)

    def dead(self, size: int) -> Row:
        """``size`` dead letters."""
        letter = encode_json({"error": {"type": "ValueError", "message": "no"}, "fields": json.loads(self.form()[0])})
        names = [keys.dead(apps.QUEUE, QUEUE_GROUP), keys.letters(apps.QUEUE, QUEUE_GROUP)]
        self.pile(_DEAD, names, size, int(time.time() * 1000), letter.decode())
        self.calls(self.count)
        return self.worked_off()

    def latency(self, size: int) -> Row:
        """How long plain calls wait while ``size`` delayed ones become due."""
        with app_folder(apps.task_app(TASKS)) as folder, pool(folder, self.url, "-A", "bench:app") as workers:
            return self.waits(folder, workers, size)

    def waits(self, folder: Path, workers: Pool, size: int) -> Row:
        """Send plain calls at a fixed pace from the moment the others are due until they are done, 3 s at least."""
        sender = apps.producer(TASKS, self.url)
        sender.timed.delay(sent=time.time())
        log = folder / "timed.txt"
        until(lambda: log.exists() and log.stat().st_size > 0, "the pool begins", workers)
        over = threading.Event()

        def send() -> None:
            begin, number = time.perf_counter(), 0
            while not over.wait(max(0.0, begin + number / LATENCY_PER_S - time.perf_counter())):
                sender.timed.delay(sent=time.time())
                number += 1

        if size:
            self.delayed(size, 0.2 + size / 50_000)
        thread = threading.Thread(target=send)
        thread.start()
        begin = time.perf_counter()
        try:
            time.sleep(3.0)
            until(lambda: self.left_with_delayed() < 50, "the delayed calls are done", workers, timeout_s=900)
        finally:
            over.set()
            thread.join()
        elapsed = time.perf_counter() - begin
        until(lambda: not self.left_with_delayed(), "everything is done", workers)
        found = [float(line) for line in log.read_text().split()]
        sender.app.close()
        return {**percentiles(found[1:]), "sent": len(found) - 1, "seconds": elapsed}


SIZES = {
    "waiting": [10**power for power in range(2, 8)],
    "groups": [1, 2, 5, 10, 20, 50],
    "consumers": [1, 10, 100, 1_000, 10_000],
    "delayed": [10**power for power in range(2, 7)],
    "dead": [0, *(10**power for power in range(2, 7))],
    "latency": [0, *(10**power for power in range(4, 7))],
}
WAITS = (Column("p50_ms", "p50 ms", 2), Column("p99_ms", "p99 ms", 2), Column("max_ms", "max ms", 1))


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, count=40_000, rounds=3, most=10_000_000).parse_args()
    wanted = chosen([f"{what} {size}" for what, sizes in SIZES.items() for size in sizes], options.only)
    tables = []
    with server() as url:
        growth = Growth(url, options.count)
        run = {
            "waiting": growth.waiting,
            "groups": growth.groups,
            "consumers": growth.consumers,
            "delayed": growth.due,
            "dead": growth.dead,
            "latency": growth.latency,
        }
        for what, sizes in SIZES.items():
            figures = Figures(["growth", "size"], WAITS if what == "latency" else DRAINED, options.out)
            for _ in range(options.rounds):
                for size in sizes:
                    if size <= options.most and f"{what} {size}" in wanted:
                        growth.client.flushall()
                        figures.add({"growth": what, "size": size, **run[what](size)})
            tables.append(figures)
        growth.client.flushall()
        growth.broker.close()
        growth.client.close()
    for figures in tables:
        if figures:
            figures.show()


if __name__ == "__main__":
    main()
