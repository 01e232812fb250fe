"""How long it takes until what a killed worker held runs elsewhere.

    python -m benchmarks.takeover [--kills 40] [--messages 5] [--lease 6]

Two pools of one process each on an embedded Valkey; one of them runs a few messages that never end. Over and over,
after a random wait, whoever runs them is killed with SIGKILL: in the first half only the worker process (its supervisor
lives), in the second the supervisor and its worker together. Measured is the time from the kill until the last of the
messages runs again.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.harness import Column, Figures, Pool, parser, server, until, write_files
from taskstream.broker import Broker
from taskstream.message import Message, encode_json, new_id

MODULE = """
import os
import time

from taskstream import Taskstream

app = Taskstream("held", results=None)
log = os.open("starts.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@app.task(max_deliveries=1_000_000)
def hold(number: int) -> None:
    os.write(log, b"%d %d %.6f\\n" % (number, os.getpid(), time.monotonic()))
    while True:
        time.sleep(3600)
"""


class Bench:
    """Two pools and the messages they toss."""

    def __init__(self, folder: Path, url: str, lease: float, messages: int) -> None:
        self.folder = folder
        self.broker = Broker(url)
        self._lease = lease
        self._messages = messages
        self.pools: list[Pool] = []
        write_files(folder, {"held.py": MODULE, "starts.txt": ""})

    def start(self) -> None:
        """Start one more pool."""
        arguments = ["worker", "-A", "held:app", "--broker", self.broker.url, "--processes", "1", "-l", "ERROR"]
        self.pools.append(Pool([*arguments, "--lease", str(self._lease)], self.folder))

    def send(self) -> None:
        """The messages; they stay for good."""
        for number in range(self._messages):
            self.broker.publish("held", Message(new_id(), "held.hold", encode_json({"args": [number]})))

    def running(self) -> dict[int, tuple[int, float]]:
        """By message: the process that started it last, and when (monotonic s)."""
        lines = [line.split() for line in (self.folder / "starts.txt").read_text().splitlines()]
        return {int(number): (int(pid), float(at)) for number, pid, at in lines}

    def ready(self) -> bool:
        """Whether both pools have a live worker, and the messages run."""
        live = {one["pid"] for one in self.broker.workers() if psutil.pid_exists(one["pid"])}
        return len(live) == len(self.pools) and len(self.running()) == self._messages

    def kill(self, whole: bool) -> float:
        """Kill who runs the messages; return how long (s) the last of them waited for another."""
        held: dict[int, set[int]] = {}
        for number, (pid, _) in self.running().items():
            held.setdefault(pid, set()).add(number)
        victim = max(held, key=lambda pid: len(held[pid]))
        (pool,) = [one for one in self.pools if victim in {child.pid for child in one.children()}]
        killed = time.monotonic()
        if whole:
            os.killpg(pool.process.pid, signal.SIGKILL)
        else:
            os.kill(victim, signal.SIGKILL)

        def waits() -> list[float]:
            return [at - killed for number, (_, at) in self.running().items() if number in held[victim]]

        until(lambda: min(waits()) > 0, "somebody takes over")
        took = max(waits())
        self.replace(pool)
        return took

    def replace(self, pool: Pool) -> None:
        """Have a fresh pool in place of this one, which would wait longer and longer before it starts a process."""
        pool.stop()
        self.pools.remove(pool)
        self.start()


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, kills=40, messages=5)
    command.add_argument("--lease", type=float, default=6.0, help="seconds, 6 by default")
    options = command.parse_args()
    figures = Figures(["killed"], [Column(name, name.replace("_s", ", s"), 2) for name in ("p50_s", "p99_s", "max_s")])
    with tempfile.TemporaryDirectory() as home, server() as url:
        bench = Bench(Path(home), url, options.lease, options.messages)
        try:
            bench.start()
            bench.send()
            bench.start()
            for whole in (False, True):
                took = []
                for _ in range(options.kills):
                    until(bench.ready, "the start of a pool", every_s=0.05)
                    time.sleep(random.uniform(1.0, 1.0 + options.lease / 2))
                    took.append(bench.kill(whole))
                cuts = statistics.quantiles(took, n=100, method="inclusive")
                killed = "pool" if whole else "worker process"
                found = {"p50_s": cuts[49], "p99_s": cuts[98], "max_s": max(took)}
                figures.add({"killed": killed, "kills": options.kills, "lease_s": options.lease, **found})
        finally:
            for pool in bench.pools:
                pool.kill()
    figures.show()


if __name__ == "__main__":
    main()
