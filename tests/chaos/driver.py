"""Shakes a system by a seed: kills, freezes, stops, deploys, faults of broker, network and disk. Writes down when."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
from helpers import alive

from .app.chaos_effects import FAIL, FOLDER, RECORD
from .pool import GRACE_S, Pool
from .records import Span
from .system import System

ROUND_S = 60.0
GAP_S = (0.3, 1.8)
"""Least and most time between two disturbances."""
WATCH_S = 1.0
"""How long to watch a process for the right moment to hit it."""


class Driver:
    """Disturbs ``system`` for a time. ``say`` is told what is done."""

    def __init__(self, system: System, rng: random.Random, say: Callable[[str], None]) -> None:
        self._system = system
        self._records = system.records
        self._lease_s = system.load.lease_s
        self._rng = rng
        self._say = say
        self._later: list[tuple[float, Callable[[], None]]] = []
        """What ends a disturbance, and when."""
        self._stopping: list[tuple[psutil.Process, float]] = []
        self._frozen_until: dict[int, float] = {}
        self._begun = time.monotonic()
        self._deck = self._deal()
        self._broker_gone: float | None = None
        self._faulty: set[int] = set()
        self._disk_full = False
        self.count: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Disturb, in rounds with everything in each, then let everything go on."""
        self._begun = time.monotonic()
        length = min(ROUND_S, seconds)
        timetable = [
            (self._begun + length * (number + share), action)
            for number in range(max(1, round(seconds / length)))
            for share, action in self._round(number)
        ]
        while time.monotonic() < self._begun + seconds or timetable:
            self._pause(self._rng.uniform(*GAP_S))
            self._revive()
            if timetable and time.monotonic() >= timetable[0][0]:
                timetable.pop(0)[1]()
            else:
                next(self._deck)()
        while self._later or self._stopping:
            self._pause(0.1)
        for pool in self._system.pools:
            if pool.told_to_stop:
                pool.supervisor.wait(GRACE_S + 30)
        self._revive()

    def _round(self, number: int) -> list[tuple[float, Callable[[], None]]]:
        """Shares of a round, and what comes then: a deploy in two steps, and every fault of the world."""
        pool = self._system.pools[1 + number % 2]
        deploys: list[tuple[float, Callable[[], None]]] = []
        if self._system.load.old_release is None:
            deploys = [(0.02, lambda: self._deploy(pool, "old")), (0.3, lambda: self._deploy(pool, "new"))]
        faults: list[tuple[float, Callable[[], None]]] = [
            (0.1, lambda: self._take_broker_away(0.0)),
            (0.2, lambda: self._take_broker_away(self._lease_s + 1.5)),
            (0.45, lambda: self._break_network(0, self._lease_s + 1.5)),
            *([(0.55, lambda: self._take_broker_away(self._lease_s + 1.5))] if self._system.load.short else []),
            (0.65, lambda: self._fill_disk(self._rng.uniform(2.0, 5.0))),
            (0.8, lambda: self._take_broker_away(0.0)),
            (0.9, lambda: self._break_network(1, self._lease_s + 1.5)),
        ]
        return sorted(deploys + faults, key=lambda one: one[0])

    def _deal(self) -> Iterator[Callable[[], None]]:
        """Each kind of disturbance once in every deck, in another order each time."""
        while True:
            deck = [
                *(self._kill_worker,) * 2,
                *(self._kill_worker_at_a_failure,) * 2,
                self._kill_supervisor,
                self._kill_pool,
                self._freeze_shortly,
                self._freeze_for_long,
                self._freeze_supervisor,
                self._stop_pool,
                lambda: self._lose_reply(0, self._rng.choice((b"XREADGROUP", b"EVALSHA"))),
                lambda: self._lose_reply(1, b"EVALSHA"),
                self._cut,
                self._refuse,
                self._delay,
                self._drop_shortly,
            ]
            self._rng.shuffle(deck)
            yield from deck

    # -- time --------------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        """Wait, and do what is due meanwhile."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for one in sorted((one for one in self._later if one[0] <= now), key=lambda one: one[0]):
                self._later.remove(one)
                one[1]()
            self._see_who_stopped()
            if now >= until:
                return
            time.sleep(min(0.05, until - now))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def _tell(self, kind: str, text: str) -> None:
        self.count[kind] += 1
        self._say(f"{time.monotonic() - self._begun:7.2f} s  {text}")

    def _revive(self) -> None:
        """Start pools that ended, as an operator's system would."""
        for pool in self._system.pools:
            if pool.supervisor.process.poll() is not None:
                self._say(f"{time.monotonic() - self._begun:7.2f} s  {pool.name} starts again, {pool.release} release")
                pool.start()

    # -- processes ---------------------------------------------------------------------------------------

    def _worker(self, *, steady: bool = False) -> psutil.Process | None:
        """Some worker process; the first of the first pool only where ``steady``."""
        pool = self._rng.choice(self._system.pools)
        workers = pool.workers()
        if pool is self._system.pools[0] and not steady:
            workers = workers[1:]
        return self._rng.choice(workers) if workers else None

    def _busiest_worker(self) -> psutil.Process | None:
        """The one in which most handlers run."""
        workers = [worker for pool in self._system.pools for worker in pool.workers()]
        return max(workers, key=lambda worker: self._records.running(worker.pid), default=None)

    def _mortal_pool(self) -> Pool:
        return self._rng.choice(self._system.pools[1:])

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                self._records.killed.append((process.pid, time.monotonic()))

    def _kill_worker(self) -> None:
        worker = self._worker()
        if worker is not None:
            self._tell("SIGKILL worker", f"SIGKILL worker {worker.pid}")
            self._kill([worker])

    def _kill_worker_at_a_failure(self) -> None:
        """In the moments after a handler failed: between outcome, acknowledgement and the retry's place."""
        worker = self._worker()
        if worker is not None and self._await_failure(worker.pid):
            self._tell("SIGKILL worker after a failure", f"SIGKILL worker {worker.pid}, where a handler just failed")
            self._kill([worker])

    def _await_failure(self, pid: int) -> bool:
        """Return a few milliseconds after process ``pid`` left the next record of a failure, False if none comes."""
        files = sorted((self._records.folder / FOLDER).glob(f"{pid}-*"), key=lambda path: path.stat().st_mtime)
        if not files:
            return False
        until = time.monotonic() + WATCH_S
        with files[-1].open("rb") as records:
            records.seek(0, 2)
            while time.monotonic() < until:
                data = records.read()
                if FAIL in data[:: RECORD.size]:
                    time.sleep(self._rng.uniform(0.0, 0.004))
                    return True
                time.sleep(0.0005)
        return False

    def _kill_supervisor(self) -> None:
        pool = self._mortal_pool()
        self._tell("SIGKILL supervisor", f"SIGKILL supervisor of {pool.name}; its workers stop by themselves")
        self._note_stop(pool)
        pool.supervisor.process.kill()
        pool.supervisor.wait(10)

    def _kill_pool(self) -> None:
        pool = self._mortal_pool()
        self._tell("SIGKILL pool", f"SIGKILL all of {pool.name}")
        workers = pool.workers()
        pool.supervisor.process.kill()
        self._kill(workers)
        pool.supervisor.wait(10)

    def _stop_pool(self) -> None:
        pool = self._mortal_pool()
        self._tell("SIGTERM pool", f"SIGTERM {pool.name}")
        self._stop(pool)

    def _stop(self, pool: Pool) -> None:
        """Once: a second signal would interrupt what runs, and have it run again."""
        if not pool.told_to_stop:
            self._note_stop(pool)
            pool.stop()

    def _note_stop(self, pool: Pool) -> None:
        now = time.monotonic()
        self._stopping += [(worker, now) for worker in pool.workers()]

    def _see_who_stopped(self) -> None:
        """Write down when each process that was told to stop was gone."""
        now = time.monotonic()
        for one in [one for one in self._stopping if not alive(one[0].pid)]:
            self._stopping.remove(one)
            self._records.stopped.append((one[0].pid, Span(one[1], now)))

    def _deploy(self, pool: Pool, release: str) -> None:
        """As a rolling deploy: the pool ends cleanly and starts again with other code."""
        self._tell("deploy", f"{pool.name} gets the {release} release")
        pool.release = release
        self._stop(pool)

    def _freeze(self, process: psutil.Process, seconds: float, who: str) -> None:
        self._tell(f"SIGSTOP {who}", f"SIGSTOP {who} {process.pid} for {seconds:.1f} s")
        begun = time.monotonic()
        until = max(begun + seconds, self._frozen_until.get(process.pid, 0.0))
        self._frozen_until[process.pid] = until

        def thaw() -> None:
            if self._frozen_until[process.pid] == until:  # else it was stopped once more meanwhile, for longer
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
            self._records.frozen.append((process.pid, Span(begun, time.monotonic())))

        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            self._after(until - begun, thaw)

    def _freeze_shortly(self) -> None:
        worker = self._worker(steady=True)
        if worker is not None:
            self._freeze(worker, self._rng.uniform(0.2, 0.3 * self._lease_s), "worker")

    def _freeze_for_long(self) -> None:
        worker = self._worker(steady=True)
        if worker is not None:
            if self._rng.random() < 0.5:
                self._await_failure(worker.pid)
            self._freeze(worker, self._lease_s + self._rng.uniform(2.0, 3.0), "worker past its lease")

    def _freeze_supervisor(self) -> None:
        process = psutil.Process(self._rng.choice(self._system.pools).supervisor.pid)
        self._freeze(process, self._rng.uniform(0.5, 2.0), "supervisor")

    # -- the broker --------------------------------------------------------------------------------------

    def _take_broker_away(self, seconds: float) -> None:
        if self._broker_gone is not None:
            return
        how = self._rng.choice((signal.SIGKILL, signal.SIGTERM))
        kind = "broker outage" if seconds else "broker restart"
        self._tell(kind, f"{how.name} the broker, back after {seconds:.1f} s")
        self._broker_gone = time.monotonic()
        if how == signal.SIGKILL:
            self._system.server.kill()
        else:
            self._system.server.stop()
        self._after(seconds, lambda: self._bring_broker_back(was_long=seconds > 0))

    def _bring_broker_back(self, *, was_long: bool) -> None:
        assert self._broker_gone is not None and self._system.sampler is not None
        late = self._busiest_worker() if was_long else None
        if late is not None:
            # All leases have run out, and this one is renewed later than the others look.
            with contextlib.suppress(psutil.NoSuchProcess):
                late.suspend()
        self._system.server.start()
        self._system.sampler.broker_is_back()
        if late is not None:
            self._freeze(late, 0.4 * self._lease_s, "worker")
        self._records.outages.append(Span(self._broker_gone, time.monotonic()))
        self._broker_gone = None

    # -- the network: of one pool (0) or two producers (1) -----------------------------------------------

    def _fault(self, kind: str, seconds: float, action: Callable[[int], None]) -> None:
        """One fault at a time in each network; ``action`` begins it."""
        which = self._rng.randrange(len(self._system.proxies))
        if which not in self._faulty:
            self._tell(kind, f"{kind}, network {which}, {seconds:.1f} s")
            self._faulty.add(which)
            action(which)
            self._after(seconds, lambda: self._heal(which))

    def _heal(self, which: int) -> None:
        self._system.proxies[which].heal()
        self._faulty.discard(which)

    def _cut(self) -> None:
        self._fault("cut connections", 0.0, lambda which: self._system.proxies[which].cut())

    def _lose_reply(self, which: int, command: bytes) -> None:
        """What is asked next is done, and whoever asked never hears of it."""
        self._tell("lost reply", f"the next reply to {command.decode()} gets lost, network {which}")
        self._system.proxies[which].lose_reply_to(command)

    def _refuse(self) -> None:
        self._fault("refused connections", 0.3 * self._lease_s, lambda which: self._system.proxies[which].refuse())

    def _delay(self) -> None:
        seconds = self._rng.uniform(0.02, 0.15)
        self._fault("slow network", 4.0, lambda which: self._system.proxies[which].delay(seconds))

    def _drop_shortly(self) -> None:
        self._fault("short black hole", 0.25 * self._lease_s, lambda which: self._system.proxies[which].drop())

    def _break_network(self, which: int, seconds: float) -> None:
        """Nothing passes for longer than a lease."""
        if which in self._faulty:
            return
        self._tell("black hole past the lease", f"black hole, network {which}, {seconds:.1f} s")
        self._faulty.add(which)
        begun = time.monotonic()
        workers = {worker.pid for worker in self._system.pools[2].workers()} if which == 0 else set()
        self._system.proxies[which].drop()

        def heal() -> None:
            # What was under way at the end of it has to run into its time-out first.
            span = Span(begun, time.monotonic() + self._lease_s / 2)
            self._records.cut_off.extend((pid, span) for pid in workers)
            self._heal(which)

        self._after(seconds, heal)

    # -- the disk ----------------------------------------------------------------------------------------

    def _fill_disk(self, seconds: float) -> None:
        disk = self._system.disk
        if disk.why_not or self._disk_full or not disk.fill():
            return
        self._tell("disk full", f"results' disk full for {seconds:.1f} s")
        self._disk_full = True
        begun = time.monotonic()

        def free() -> None:
            disk.free()
            self._records.full.append(Span(begun, time.monotonic()))
            self._disk_full = False

        self._after(seconds, free)
