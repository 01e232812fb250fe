"""What the chaos run shakes: a Valkey server that keeps what it acknowledged, worker pools, producers, a small disk.

One pool, and two producers, reach the server through a network of their own, which the driver can break. Poison goes to
a queue that the first pool does not serve, and nothing kills that pool's first process: memory that leaks shows there.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from box import patience
from helpers import OwnServer, Started, eventually
from proxy import FaultyProxy

from taskstream import keys
from taskstream.broker import Broker

from .disk import SmallDisk
from .pool import GRACE_S, PROCESSES, Pool, older_taskstream, with_python_path
from .records import Records
from .sampler import Sampler

APP = Path(__file__).parent / "app"
QUEUE = "chaos"
QUEUES = (QUEUE, "chaos-next", "chaos-poison")
GROUP = "taskstream"
PRODUCERS = {"single": 0.05, "keyed": 0.05, "outbox": 0.04, "many": 0.86}
"""How each producer sends, and its share of all calls."""


@dataclass(frozen=True)
class Load:
    """How big a run is. ``per_second``: calls on average; ``old_release``: a commit whose Taskstream one pool runs."""

    seconds: float
    seed: int
    per_second: float = 700.0
    lease_s: float = 3.0
    old_release: str | None = None

    @property
    def short(self) -> bool:
        """Whether it has to show much in little time."""
        return self.seconds <= 120


class System:
    """Everything, in one folder."""

    def __init__(self, folder: Path, load: Load) -> None:
        self.folder = folder / "work"
        self.load = load
        shutil.copytree(APP, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        (self.folder / "effects").mkdir()
        (folder / "valkey").mkdir()
        self.pools: list[Pool] = []
        self.producers: list[Started] = []
        self.proxies: list[FaultyProxy] = []
        self.disk = SmallDisk(folder / "disk")
        self.server = OwnServer(folder / "valkey")
        self.records = Records(self.folder)
        self.sampler: Sampler | None = None
        try:
            self._start(folder)
        except BaseException:
            self.remove()
            raise

    def _start(self, folder: Path) -> None:
        self.proxies = [FaultyProxy(self.server.url) for _ in range(2)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKSTREAM_")}
        self.results_url = f"file://{self.disk.folder / 'results'}"
        direct = {**clean, "TASKSTREAM_BROKER": self.server.url, "TASKSTREAM_RESULTS": self.results_url}
        far, keyed = ({**direct, "TASKSTREAM_BROKER": proxy.url} for proxy in self.proxies)
        other = direct
        if self.load.old_release is not None:
            other = with_python_path(direct, older_taskstream(self.load.old_release, folder / "older"))
        lease_s = self.load.lease_s
        self.pools = [
            Pool("pool0", self.folder, direct, lease_s, queues=("chaos", "chaos-next")),
            Pool("pool1", self.folder, other, lease_s, release="old"),
            Pool("pool2", self.folder, far, lease_s),
        ]
        for number, (how, share) in enumerate(PRODUCERS.items()):
            rate = share * self.load.per_second
            env = {"keyed": keyed, "outbox": {**keyed, "CHAOS_OUTBOX": "yes"}}.get(how, direct)
            self.producers.append(self._producer(how, number, rate, env))
        every_s = 1.0 if self.load.seconds < 300 else 5.0
        self.sampler = Sampler(self.server.url, QUEUE, self.records, self._processes, every_s)

    def _producer(self, how: str, number: int, rate: float, env: dict[str, str]) -> Started:
        script = str(self.folder / "chaos_producer.py")
        name = f"producer-{how}"
        step, seed = len(PRODUCERS), self.load.seed + number
        command = [sys.executable, script, name, how, str(number), str(step), str(seed), str(rate)]
        return Started(command, cwd=self.folder, env=env, output=self.folder / f"{name}.out")

    def _processes(self) -> Iterator[tuple[str, int]]:
        for pool in self.pools:
            yield f"{pool.name} supervisor", pool.supervisor.pid
            for worker in pool.workers():
                yield f"{pool.name} worker", worker.pid

    def stop_producers(self) -> None:
        """Let them finish the call they are at. AssertionError if one failed."""
        for producer in self.producers:
            producer.process.terminate()
        for producer in self.producers:
            assert producer.wait(120) == 0, producer.output

    def remove(self) -> None:
        """Kill whatever is left."""
        for run in (*self.producers, *(run for pool in self.pools for run in pool.runs)):
            run.remove()
        if self.sampler is not None:
            self.sampler.stop()
        for proxy in self.proxies:
            proxy.close()
        self.server.stop()
        self.disk.remove()

    # -- the end -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until all is done and every consumer left belongs to a living process, then stop the pools cleanly.

        AssertionError if nothing moves any more before that.
        """
        timeout = 130.0 + patience(15.0)  # a message of an unknown name may be delayed for two minutes
        last, since = "", time.monotonic()
        while not self._idle():
            state = self.state()
            if state != last:
                last, since = state, time.monotonic()
            assert time.monotonic() - since < timeout, f"nothing moves, and still to do: {state}"
            time.sleep(0.2)
        living = {queue: PROCESSES * sum(queue in pool.queues for pool in self.pools) for queue in QUEUES}
        eventually(lambda: self._consumers() == living, timeout, lambda: f"{self._consumers()} consumers, not {living}")
        assert self.sampler is not None
        self.sampler.stop()
        for pool in self.pools:
            pool.stop()
        for pool in self.pools:
            status = pool.supervisor.wait(GRACE_S + 60)
            assert status == 0, f"{pool.name} ended with {status}:\n{pool.supervisor.output[-4000:]}"
            for run in pool.runs:
                eventually(lambda run=run: run.family() == [], 60.0, f"{pool.name} left a process behind")

    def state(self) -> str:
        """What is where."""
        broker = Broker(self.server.url)
        try:
            return repr([broker.stream_state(queue) for queue in QUEUES])
        finally:
            broker.close()

    def _idle(self) -> bool:
        broker = Broker(self.server.url)
        try:
            states = [broker.stream_state(queue) for queue in QUEUES]
        finally:
            broker.close()
        return not any(
            length or any(group.waiting or group.held or group.delayed for group in groups) for length, groups in states
        )

    def _consumers(self) -> dict[str, int]:
        with redis.Redis.from_url(self.server.url) as client:
            return {queue: len(client.xinfo_consumers(queue, GROUP)) for queue in QUEUES}

    def left_in_redis(self) -> list[str]:
        """Keys with anything in them that nothing should be left in once all pools have stopped."""
        streams = [key for queue in QUEUES for key in (queue, keys.again(queue, GROUP))]
        letters = [key for queue in QUEUES for key in (keys.dead(queue, GROUP), keys.letters(queue, GROUP))]
        may_stay = {*streams, *letters, keys.SUBSCRIPTIONS}
        with redis.Redis.from_url(self.server.url) as client:
            left = {key.decode() for key in client.scan_iter(count=1000)} - may_stay
            lasting = [key for key in left if client.ttl(key) == -1]
            for key in streams:
                if client.xlen(key) or client.xpending(key, GROUP)["pending"] or client.xinfo_consumers(key, GROUP):
                    lasting.append(key)
        return sorted(lasting)
