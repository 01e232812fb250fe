"""Shakes a system by a seed: kills, freezes, clean stops, outages of the broker. Writes down what it did and when."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator

import psutil

from .records import Span
from .system import GRACE_S, LEASE_S, Pool, System

GAP_S = (0.3, 1.6)
"""Least and most time between two disturbances."""
RESTARTS_AT = 0.35
OUTAGE_AT = 0.65
"""When in each round the broker is restarted and goes away (shares of ROUND_S)."""
OUTAGE_S = LEASE_S + 1.5
ROUND_S = 20.0


class Driver:
    """Disturbs ``system`` for a time. ``say`` is told what is done."""

    def __init__(self, system: System, rng: random.Random, say: Callable[[str], None]) -> None:
        self._system = system
        self._records = system.records
        self._rng = rng
        self._say = say
        self._thaws: list[tuple[float, psutil.Process]] = []
        self._begun = time.monotonic()
        self._deck = self._deal()
        self.count = 0

    def run(self, seconds: float) -> None:
        """Disturb, with an outage and a restart of the broker in each round, then let everything go on."""
        self._begun = time.monotonic()
        end = self._begun + seconds
        length = min(ROUND_S, seconds)
        rounds = max(1, round(seconds / length))
        broker = [
            (self._begun + length * (number + share), action)
            for number in range(rounds)
            for share, action in ((RESTARTS_AT, self._restart_broker), (OUTAGE_AT, self._take_broker_away))
        ]
        while time.monotonic() < end or broker:
            self._pause(self._rng.uniform(*GAP_S))
            self._revive()
            if broker and time.monotonic() >= broker[0][0]:
                broker.pop(0)[1]()
            else:
                next(self._deck)()
            self.count += 1
        while self._thaws:
            self._pause(0.1)
        for pool in self._system.pools:
            if pool.told_to_stop:
                pool.supervisor.wait(GRACE_S + 30)
        self._revive()

    def _deal(self) -> Iterator[Callable[[], None]]:
        """Each kind of disturbance once in every deck, in another order each time."""
        while True:
            deck = [
                *(self._kill_worker,) * 3,
                self._kill_supervisor,
                self._kill_pool,
                self._freeze_shortly,
                self._freeze_for_long,
                self._freeze_supervisor,
                self._stop_pool,
            ]
            self._rng.shuffle(deck)
            yield from deck

    def _pause(self, seconds: float) -> None:
        """Wait, and thaw what is due meanwhile."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for thaw in [one for one in self._thaws if one[0] <= now]:
                self._thaws.remove(thaw)
                with contextlib.suppress(psutil.NoSuchProcess):
                    thaw[1].resume()
            if now >= until:
                return
            time.sleep(min(0.05, until - now))

    def _revive(self) -> None:
        """Start pools that ended, as an operator's system would."""
        for pool in self._system.pools:
            if pool.supervisor.process.poll() is not None:
                self._tell(f"{pool.name} starts again")
                pool.start()

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._begun:6.2f} s  {text}")

    def _pool(self) -> Pool:
        return self._rng.choice(self._system.pools)

    def _worker(self) -> psutil.Process | None:
        workers = self._pool().workers()
        return self._rng.choice(workers) if workers else None

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                self._records.killed.setdefault(process.pid, time.time())

    # -- disturbances ------------------------------------------------------------------------------------

    def _kill_worker(self) -> None:
        worker = self._worker()
        if worker is not None:
            self._tell(f"SIGKILL worker {worker.pid}")
            self._kill([worker])

    def _kill_supervisor(self) -> None:
        pool = self._pool()
        self._tell(f"SIGKILL supervisor of {pool.name}; its workers stop by themselves")
        for worker in pool.workers():
            self._records.stopped[worker.pid] = time.time()
        pool.supervisor.process.kill()
        pool.supervisor.wait(10)

    def _kill_pool(self) -> None:
        pool = self._pool()
        self._tell(f"SIGKILL all of {pool.name}")
        workers = pool.workers()
        pool.supervisor.process.kill()
        self._kill(workers)
        pool.supervisor.wait(10)

    def _stop_pool(self) -> None:
        pool = self._pool()
        self._tell(f"SIGTERM {pool.name}")
        for worker in pool.workers():
            self._records.stopped[worker.pid] = time.time()
        pool.stop()

    def _freeze(self, process: psutil.Process, seconds: float, who: str) -> None:
        self._tell(f"SIGSTOP {who} {process.pid} for {seconds:.1f} s")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            now = time.time()
            self._records.frozen.append((process.pid, Span(now, now + seconds + 0.2)))
            self._thaws.append((time.monotonic() + seconds, process))

    def _freeze_shortly(self) -> None:
        worker = self._worker()
        if worker is not None:
            self._freeze(worker, self._rng.uniform(0.2, 0.3 * LEASE_S), "worker")

    def _freeze_for_long(self) -> None:
        worker = self._worker()
        if worker is not None:
            self._freeze(worker, LEASE_S + self._rng.uniform(2.0, 3.0), "worker")

    def _freeze_supervisor(self) -> None:
        process = psutil.Process(self._pool().supervisor.pid)
        self._freeze(process, self._rng.uniform(0.5, 2.0), "supervisor")

    def _restart_broker(self) -> None:
        self._outage(0.0)

    def _take_broker_away(self) -> None:
        self._outage(OUTAGE_S)

    def _outage(self, seconds: float) -> None:
        how = self._rng.choice((signal.SIGKILL, signal.SIGTERM))
        self._tell(f"{how.name} the broker for {seconds:.1f} s")
        begun = time.time()
        if how == signal.SIGKILL:
            self._system.server.kill()
        else:
            self._system.server.stop()
        if seconds:
            self._pause(seconds / 2)
            next(self._deck)()  # something else goes wrong meanwhile
            self._pause(seconds / 2)
        self._system.server.start()
        self._records.outages.append(Span(begun, time.time()))
