"""What the chaos run shakes: a Valkey server that keeps what it acknowledged, worker pools, producers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import psutil
import redis
from helpers import OwnServer, Started, eventually, taskstream_command

from taskstream import keys
from taskstream.broker import Broker

from .records import Records

APP = Path(__file__).parent / "app"
QUEUE = "chaos"
GROUP = "taskstream"
LEASE_S = 3.0
GRACE_S = 10.0
PROCESSES = 2
CONCURRENCY = 10


class Pool:
    """`taskstream worker` under one name, to be started again whenever it ended."""

    def __init__(self, name: str, folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self._folder = folder
        self._env = env
        self.runs: list[Started] = []
        self.told_to_stop = False
        self.start()

    def start(self) -> None:
        """Start it, anew under the same name."""
        self.told_to_stop = False
        options = ["-A", "chaos_tasks:app", "-n", self.name, "--processes", str(PROCESSES), "-c", str(CONCURRENCY)]
        limits = ["--lease", str(LEASE_S), "--grace", str(GRACE_S), "-l", "WARNING"]
        output = self._folder / f"{self.name}-{len(self.runs)}.log"
        command = taskstream_command("worker", *options, *limits)
        self.runs.append(Started(command, cwd=self._folder, env=self._env, output=output))

    @property
    def supervisor(self) -> Started:
        """The run started last."""
        return self.runs[-1]

    def stop(self) -> None:
        """Tell it to stop cleanly."""
        self.told_to_stop = True
        self.supervisor.process.terminate()

    def workers(self) -> list[psutil.Process]:
        """The worker processes of the run started last."""
        found = []
        for process in self.runs[-1].family():
            try:
                if "taskstream_worker.child" in process.cmdline():
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)


class System:
    """Everything, in one folder."""

    def __init__(self, folder: Path, seed: int, pools: int = 2, producers: int = 2, per_second: float = 20.0) -> None:
        """``per_second``: calls of each producer."""
        self.folder = folder / "work"
        shutil.copytree(APP, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "valkey").mkdir()
        self.server = OwnServer(folder / "valkey")
        self.records = Records(self.folder)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKSTREAM_")}
        self._env = {**clean, "TASKSTREAM_BROKER": self.server.url}
        self.pools = [Pool(f"pool{number}", self.folder, self._env) for number in range(pools)]
        self._producers = [
            self._producer(f"producer{number}", number, producers, seed + number, per_second)
            for number in range(producers)
        ]

    def _producer(self, name: str, first: int, step: int, seed: int, per_second: float) -> Started:
        script = str(self.folder / "chaos_producer.py")
        command = [sys.executable, script, name, str(first), str(step), str(seed), str(per_second)]
        return Started(command, cwd=self.folder, env=self._env, output=self.folder / f"{name}.out")

    def stop_producers(self) -> None:
        """Let them finish the call they are at. AssertionError if one failed."""
        for producer in self._producers:
            producer.process.terminate()
        for producer in self._producers:
            assert producer.wait(60) == 0, producer.output

    def remove(self) -> None:
        """Kill whatever is left."""
        for run in (*self._producers, *(run for pool in self.pools for run in pool.runs)):
            run.remove()
        self.server.stop()

    # -- the end -----------------------------------------------------------------------------------------

    def settle(self, timeout: float) -> None:
        """Wait until all is done and every consumer left belongs to a living process, then stop the pools cleanly."""
        eventually(self._idle, timeout, lambda: f"still to do: {self.state()}")
        living = len(self.pools) * PROCESSES
        eventually(lambda: self._consumers() == living, timeout, lambda: f"consumers: {self._consumers()}")
        for pool in self.pools:
            pool.stop()
        for pool in self.pools:
            status = pool.supervisor.wait(GRACE_S + 30)
            assert status == 0, f"{pool.name} ended with {status}:\n{pool.supervisor.output}"
            for run in pool.runs:
                eventually(lambda run=run: run.family() == [], 30.0, f"{pool.name} left a process behind")

    def state(self) -> str:
        """What is where."""
        broker = Broker(self.server.url)
        try:
            return repr(broker.group_states(QUEUE))
        finally:
            broker.close()

    def _idle(self) -> bool:
        broker = Broker(self.server.url)
        try:
            (group,) = broker.group_states(QUEUE)
            return not (group.waiting or group.held or group.delayed or broker.stream_length(QUEUE))
        finally:
            broker.close()

    def _consumers(self) -> int:
        with redis.Redis.from_url(self.server.url) as client:
            return len(client.xinfo_consumers(QUEUE, GROUP))

    def left_in_redis(self) -> list[str]:
        """Keys with anything in them that nothing should be left in once all pools have stopped."""
        may_stay = {
            QUEUE,
            keys.again(QUEUE, GROUP),
            keys.dead(QUEUE, GROUP),
            keys.letters(QUEUE, GROUP),
            keys.SUBSCRIPTIONS,
        }
        with redis.Redis.from_url(self.server.url) as client:
            left = {key.decode() for key in client.scan_iter(count=1000)} - may_stay
            lasting = [key for key in left if client.ttl(key) == -1]
            for key in (QUEUE, keys.again(QUEUE, GROUP)):
                if client.xlen(key) or client.xpending(key, GROUP)["pending"] or client.xinfo_consumers(key, GROUP):
                    lasting.append(key)
        return sorted(lasting)
