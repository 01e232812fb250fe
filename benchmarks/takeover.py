"""How long it takes until what a killed worker held runs elsewhere.

    python benchmarks/takeover.py [--kills 40] [--messages 5] [--lease 6]

Two pools of one process each on an embedded Valkey; one of them runs a few messages that never end. Over and over,
after a random wait, whoever runs them is killed with SIGKILL: in the first half only the worker process (its supervisor
lives), in the second the supervisor and its worker together. Measured is the time from the kill until the last of the
messages runs again.
Prints a JSON line for each kind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from taskstream.broker import Broker
from taskstream.embedded import EmbeddedBroker
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
        self.pools: list[subprocess.Popen[bytes]] = []
        (folder / "held.py").write_text(MODULE)
        (folder / "starts.txt").touch()

    def start(self) -> None:
        """Start one more pool."""
        arguments = ["worker", "-A", "held:app", "--broker", self.broker.url, "--processes", "1", "-l", "ERROR"]
        self.pools.append(
            subprocess.Popen(
                [sys.executable, "-m", "taskstream.cli", *arguments, "--lease", str(self._lease)],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def send(self) -> None:
        """The messages; they stay for good."""
        for number in range(self._messages):
            self.broker.publish("held", Message(new_id(), "held.hold", encode_json({"args": [number]})))

    def running(self) -> dict[int, tuple[int, float]]:
        """By message: the process that started it last, and when (monotonic s)."""
        lines = [line.split() for line in (self.folder / "starts.txt").read_text().splitlines()]
        return {int(number): (int(pid), float(at)) for number, pid, at in lines}

    def wait(self, seconds: float, what: str) -> None:
        """Until both pools have a live worker, and the messages run."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            live = {one["pid"] for one in self.broker.workers() if psutil.pid_exists(one["pid"])}
            if len(live) == len(self.pools) and len(self.running()) == self._messages:
                return
            time.sleep(0.05)
        raise SystemExit(f"{what} took longer than {seconds:g} s")

    def kill(self, whole: bool) -> float:
        """Kill who runs the messages; return how long (s) the last of them waited for another."""
        held: dict[int, set[int]] = {}
        for number, (pid, _) in self.running().items():
            held.setdefault(pid, set()).add(number)
        victim = max(held, key=lambda pid: len(held[pid]))
        (pool,) = [one for one in self.pools if victim in {child.pid for child in psutil.Process(one.pid).children()}]
        killed = time.monotonic()
        if whole:
            os.killpg(pool.pid, signal.SIGKILL)
        else:
            os.kill(victim, signal.SIGKILL)
        while True:
            waits = [at - killed for number, (_, at) in self.running().items() if number in held[victim]]
            if min(waits) > 0:
                break
            if time.monotonic() > killed + 60:
                raise SystemExit("nobody took over within 60 s")
            time.sleep(0.02)
        self.replace(pool)
        return max(waits)

    def replace(self, pool: subprocess.Popen[bytes]) -> None:
        """Have a fresh pool in place of this one, which would wait longer and longer before it starts a process."""
        if pool.poll() is None:
            pool.terminate()
            pool.wait()
        self.pools.remove(pool)
        self.start()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--messages", type=int, default=5)
    parser.add_argument("--lease", type=float, default=6.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as broker:
        bench = Bench(Path(home), broker.url, options.lease, options.messages)
        try:
            bench.start()
            bench.send()
            bench.start()
            for whole in (False, True):
                took = []
                for _ in range(options.kills):
                    bench.wait(60, "the start of a pool")
                    time.sleep(random.uniform(1.0, 1.0 + options.lease / 2))
                    took.append(bench.kill(whole))
                cuts = statistics.quantiles(took, n=100, method="inclusive")
                figures = {"p50_s": cuts[49], "p99_s": cuts[98], "max_s": max(took)}
                print(
                    json.dumps(
                        {
                            "killed": "pool" if whole else "worker process",
                            "kills": options.kills,
                            "lease_s": options.lease,
                            **{name: round(value, 3) for name, value in figures.items()},
                        }
                    ),
                    flush=True,
                )
        finally:
            for pool in bench.pools:
                os.killpg(pool.pid, signal.SIGKILL)
                pool.wait()


if __name__ == "__main__":
    main()
