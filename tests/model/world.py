"""Which steps are possible, and everything at rest again in the end."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from .faults import Faults
from .server import SUSPECT, S, again
from .state import At, Worker

Step = tuple[Any, ...]
ROUNDS = 14
"""How many fair rounds, each of one tick, must bring everything to rest."""


class World(Faults):
    """All of it. A step is a tuple: its name and arguments."""

    def copy(self) -> World:
        new = super().copy()
        new.workers = {who: worker.copy() for who, worker in self.workers.items()}
        new.broken = []
        return new

    def key(self) -> Hashable:
        return (super().key(), *[worker.key() for worker in self.workers.values()])

    def do(self, step: Step) -> None:
        """Take one step."""
        name, *arguments = step
        getattr(self, f"do_{name}")(*arguments)

    def after(self, step: Step) -> World:
        """The world after a step; this one stays as it is."""
        new = self.copy()
        new.do(step)
        return new

    def steps(self) -> Iterator[Step]:
        """What may happen now."""
        left, server = self.left, self.server
        if server.up:
            for msg in self.unsent:
                yield "publish", msg
                if left.get("lose"):
                    yield "publish", msg, "lost"
            for command in self.net:
                if command[0] == "commit" or self._anything_for(command[2]):
                    yield "arrive", command
            for fault in ("outage", "lose_leases"):
                if left.get(fault):
                    yield (fault,)
            for choice in ("requeue", "purge"):
                if left.get(choice):
                    yield from ((choice, *letter) for letter in server.dead)
            if left.get("flush") and not any(self.unsent.values()):
                yield ("flush",)
        else:
            yield ("return",)
        # Where its supervisor lives, it is quick to tell what had started; else all that was held is to blame.
        slow = self.scenario.killers and any(w.started is not None for w in self.workers.values())
        if left.get("tick") and not slow:
            yield ("tick",)
        for who, worker in self.workers.items():
            yield from self._faults(who, worker)
            if worker.up and not worker.paused and not worker.hogged:
                yield from self._own_steps(who, worker)
                if server.up and not worker.cut:
                    yield from self._server_steps(who, worker)

    def _faults(self, who: str, w: Worker) -> Iterator[Step]:
        left = self.left if not self.scenario.hit or who in self.scenario.hit else {}
        if w.started is not None and self.server.up:
            yield "release", who
        if not w.up:
            if self.left.get("restart") and (w.started is None or not self.server.up):
                yield "restart", who
            return
        for fault, back, there in (("pause", "resume", w.paused), ("cut", "mend", w.cut), ("hog", "unhog", w.hogged)):
            if there:
                yield back, who
            elif left.get(fault) and w.name:
                yield fault, who
        for fault in ("kill", "kill_both"):
            if left.get(fault) and w.name:
                yield fault, who
        if left.get("overrun") and w.supervised and not w.paused:
            yield from (("overrun", who, at) for at, job in w.jobs.items() if job.state == "running")
        for write in w.writes:
            yield "written", who, *write

    def _own_steps(self, who: str, w: Worker) -> Iterator[Step]:
        sure, suspect = self.sure(w), self._suspect(w)
        for at, job in w.jobs.items():
            if job.state == "held":
                if suspect not in (None, at):
                    yield "back", who, at, "closed"
                elif sure and (suspect is None or all(other.state == "held" for other in w.jobs.values())):
                    yield "start", who, at
                if self.left.get("stop"):
                    yield "back", who, at, "stop"
            elif job.state == "running":
                for end in "x" if job.body.msg in self.scenario.killers else self.scenario.ends:
                    yield "end", who, at, end
                if self.left.get("interrupt"):
                    yield "end", who, at, "i"
            elif job.state == "ran" and sure and "outcome_first" in self.on:
                yield "keep", who, at
                if self.left.get("late_keep"):
                    yield "keep", who, at, "late"

    def _suspect(self, w: Worker) -> At | None:
        """What is to run alone here, after all that ran is committed; the worker starts and reads nothing else."""
        if "alone" in self.on:
            for at, job in w.jobs.items():
                if job.deaths >= SUSPECT and job.state in ("held", "running"):
                    return at
        return None

    def _server_steps(self, who: str, w: Worker) -> Iterator[Step]:
        left, server = self.left, self.server
        if not w.name or w.lost or w.orphan:
            yield "join", who
            return
        if w.todo:
            yield "chore", who
            return
        if "register_first" not in self.on and (w.group, w.name) not in server.leases:
            yield "register", who
        elif server.leases.get((w.group, w.name), server.now) <= server.now:
            yield "renew", who
        sure = self.sure(w)
        if sure:
            yield from self._finish(who, w)
            readers = self.scenario.readers
            if len(w.jobs) < self.scenario.room and (not readers or who in readers) and self._suspect(w) is None:
                if self._anything_for(w.group):
                    yield "read", who
                    if left.get("lose"):
                        yield "read", who, "lost"
                if left.get("late_read"):
                    yield "read", who, "late"
        leases = {consumer: score for (group, consumer), score in server.leases.items() if group == w.group}
        if self.observe(w, leases) != (w.seen, w.ripe) or server.consumers.keys() - server.leases.keys():
            yield "sweep", who
        for victim, score in w.ripe if self._suspect(w) is None else ():
            yield "claim", who, victim, score
            if left.get("lose"):
                yield "claim", who, victim, score, "lost"
        mine = server.held(w.group, w.name)
        if "reconcile" in self.on and (set(mine) - w.jobs.keys() or (mine and "in_flight" not in self.on)):
            yield "reconcile", who
        if w.listed:
            yield "take", who
        elif left.get("late_list") and mine:
            yield "list", who
        if any(group == w.group for group, _ in server.delayed):
            yield "promote", who
        if left.get("trim"):
            yield "trim", who
        if left.get("stop") and not w.jobs:
            yield "leave", who

    def _finish(self, who: str, w: Worker) -> Iterator[Step]:
        for at, job in w.jobs.items():
            if job.state == "kept" and not self.ready(w, job):
                yield "child", who, at
        if any(self.ready(w, job) for job in w.jobs.values()):
            yield "commit", who
            for how, fault in (("lost", "lose"), ("late", "late_commit")):
                if self.left.get(fault):
                    yield "commit", who, how

    def _anything_for(self, group: str) -> bool:
        return any(
            (stream, group) in self.server.last and self.server.unread(stream, group) for stream in (S, again(group))
        )

    # -- liveness ----------------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether everything comes to rest once nothing goes wrong any more. Takes the steps: use a copy."""
        self.left = {}
        if not self.server.up:
            self.do_return()
        for msg in list(self.unsent):
            self.do_publish(msg)
        for who, w in self.workers.items():
            w.paused = w.cut = w.hogged = False
            if not w.up and w.started is None:
                self.do_restart(who)
        for _ in range(ROUNDS):
            self.left = {"tick": 1}
            self.do_tick()
            for who in self.workers:
                self._round(who)
            if self._at_rest():
                return True
        return False

    def _round(self, who: str) -> None:
        """Every step this worker can take, until there is none."""
        for _ in range(100):
            w = self.workers[who]
            steps = [step for step in self.steps() if step[0] in ("release", "arrive") or who in step[1:2]]
            if not steps:
                if w.up or w.started is not None:
                    return
                self.do_restart(who)
            else:
                # Newest first where steps are of one kind, so that the oldest does not repeat for ever.
                self.do(steps[0])

    def _at_rest(self) -> bool:
        server = self.server
        busy = server.pending or server.delayed or any(map(self._anything_for, server.groups()))
        return not busy and all(not w.jobs and not w.todo for w in self.workers.values())
