"""What each step of a producer or worker does, as the code in worker/ does it.

What a step breaks at once is noted in ``broken``; what a state breaks is looked for in invariants.py.
"""

from __future__ import annotations

from typing import Any

from .rules import EARLY, FENCED, INNOCENT, POISON, RERUN, STARTED, STOLEN, UNBOUGHT
from .server import LEASE, MAX_DELIVERIES, Body, Entry, Move, S, Server
from .state import MAX_ATTEMPTS, At, Job, Scenario, State, Worker


class Acts(State):
    """The steps."""

    def __init__(self, scenario: Scenario, on: frozenset[str], server: Server | None = None) -> None:
        super().__init__(scenario, on, server)
        for who in scenario.workers:
            if who not in scenario.later:
                self.do_join(who)

    def die(self, worker: Worker) -> None:
        """See faults.py."""
        raise NotImplementedError

    # -- producers ---------------------------------------------------------------------------------------

    def do_publish(self, msg: str, lost: str = "") -> None:
        self._publish(msg)
        if lost:
            self.pay("lose")
            self.unsent[msg] = True
        else:
            del self.unsent[msg]

    def _publish(self, msg: str) -> None:
        before = self.server.next
        self.server.publish_once(msg, msg)
        for group in self.server.groups() if self.server.next > before else ():
            self.accepted[group, msg] = True

    # -- a worker's life ---------------------------------------------------------------------------------

    def do_join(self, who: str) -> None:
        """Come to life under a name; also again, after the lease was lost or the group vanished."""
        w = self.workers[who]
        if w.lost and w.jobs and "absolve" in self.on:
            self._absolve(w)
        if not w.name or "new_names" in self.on:
            w.life += 1
        w.name = f"{who}.{w.life}"
        if (S, w.group) not in self.server.last:
            for (stream, _), body in self.server.entries.items():
                if stream == S:
                    self.accepted[w.group, body.msg] = True
        if "register_first" not in self.on:
            self.server.make_groups(w.group)
        elif not self.server.register(w.group, w.name):
            return  # the name is in use: on to the next one
        w.jobs, w.seen, w.ripe, w.listed, w.todo = {}, {}, (), (), {}
        w.lost = w.orphan = False
        w.deadline = self.server.now + LEASE
        w.alone = self.server.groups() == [w.group]

    def _absolve(self, w: Worker) -> None:
        """It has not died, whatever was counted."""
        held = tuple((*at, job.body.msg) for at, job in sorted(w.jobs.items()) if not job.overran)
        for _, entry, msg in self.server.absolve(w.group, w.name, held) if held else ():
            self.absolve_name(w.group, msg, w.name, entry)

    def do_register(self, who: str) -> None:
        """Only where a worker need not register first."""
        w = self.workers[who]
        w.lost = not self.server.register(w.group, w.name)

    def do_read(self, who: str, how: str = "") -> None:
        w = self.workers[who]
        if how == "late":
            self.pay("late_read")
            self.net["read", who, w.group, w.name] = True
            return
        entries = self.server.read(w.group, w.name, self.scenario.room)
        if how:
            self.pay("lose")
        elif entries is None:
            w.lost = True
        else:
            self._accept(w, entries)

    def _accept(self, w: Worker, entries: list[Entry]) -> None:
        """intake.accept"""
        for entry in entries:
            deaths = max(entry.deaths, entry.body.deaths)
            job = Job(entry.body, entry.body.deliveries + entry.times, deaths)
            if entry.why:
                job = self._failed(job)._replace(overran=True)  # as if it had run that long here
            elif deaths >= MAX_DELIVERIES and "poison" in self.on:
                job = job._replace(body=self._again(job), state="ran", move="d")
                if self.scenario.killers and entry.body.msg not in self.scenario.killers:
                    self.broken.append(INNOCENT)
            w.jobs[entry.stream, entry.entry] = job

    def do_start(self, who: str, at: At) -> None:
        w = self.workers[who]
        job = w.jobs[at]
        msg = job.body.msg
        if self.server.pending.get((w.group, *at), ("",))[0] != w.name and not w.orphan:
            self.broken.append(STARTED)
        if (w.group, msg, job.number) in self.starts or (w.group, msg) in self.server.why:
            self.broken.append(RERUN)
        if self.server.deaths.get((w.group, msg), 0) >= MAX_DELIVERIES:
            self.broken.append(POISON)
        self.starts[w.group, msg, job.number] = True
        w.jobs[at] = job._replace(state="running")

    def do_end(self, who: str, at: At, end: str) -> None:
        """The handler returned, failed, was interrupted, or took the process with it."""
        w = self.workers[who]
        job = w.jobs[at]
        if end == "x":
            self.die(w)
            if self.scenario.together:
                w.started = None
        elif end == "i":
            self.pay("interrupt")
            w.jobs[at] = job._replace(body=self._again(job), state="kept", move="g")
        elif end == "f":
            w.jobs[at] = self._failed(job)
        else:
            w.jobs[at] = job._replace(state="ran", move="s" if job.deaths else "a")

    def _failed(self, job: Job) -> Job:
        """outcomes.fail"""
        if job.body.attempt >= MAX_ATTEMPTS:
            return job._replace(body=self._again(job), state="ran", move="d")
        return job._replace(body=self._again(job, attempt=job.body.attempt + 1), state="ran", move="r")

    def do_back(self, who: str, at: At, how: str) -> None:
        """Give back what has not started: the worker stops, or a suspect is to run alone in it."""
        if how == "stop":
            self.pay("stop")
        w = self.workers[who]
        job = w.jobs[at]
        w.jobs[at] = job._replace(body=self._again(job, deliveries=job.number - 1), state="kept", move="g")

    def _again(self, job: Job, attempt: int = 0, deliveries: int | None = None) -> Body:
        """What is put back."""
        return Body(
            job.body.msg,
            attempt or job.body.attempt,
            job.number if deliveries is None else deliveries,
            job.deaths if "deaths_travel" in self.on else 0,
        )

    def do_leave(self, who: str) -> None:
        """A clean end, with nothing in hand."""
        self.pay("stop")
        w = self.workers[who]
        self.server.release(w.group, w.name, ())
        w.up = False
        self.gone[w.name] = True

    def do_keep(self, who: str, at: At, how: str = "") -> None:
        w = self.workers[who]
        job = w.jobs[at]
        w.writes[job.body.msg, job.number] = w.name
        w.jobs[at] = job._replace(state="writing")
        if how:
            self.pay("late_keep")
        else:
            self.do_written(who, job.body.msg, job.number)

    def do_written(self, who: str, msg: str, number: int) -> None:
        w = self.workers[who]
        self._store(w.group, msg, number, w.writes.pop((msg, number)))
        for at, job in w.jobs.items():
            if job.state == "writing" and (job.body.msg, job.number) == (msg, number):
                w.jobs[at] = job._replace(state="kept")

    def _store(self, group: str, msg: str, number: int, by: str) -> None:
        known = self.disk.get((group, msg))
        if known is None or known[0] <= number or "delivery_number" not in self.on:
            self.disk[group, msg] = (number, by)

    def do_child(self, who: str, at: At) -> None:
        w = self.workers[who]
        job = w.jobs[at]
        self._publish_child(job.body.msg, job.number)
        w.jobs[at] = job._replace(state="sent")

    def _publish_child(self, parent: str, number: int) -> None:
        child = self.scenario.children[parent]
        if "derived_ids" not in self.on:
            child = f"{child}.{number}"
        self._publish(child)
        self.kids[parent, child] = True

    # -- commits -----------------------------------------------------------------------------------------

    def do_commit(self, who: str, how: str = "") -> None:
        w = self.workers[who]
        jobs = {at: job for at, job in w.jobs.items() if self.ready(w, job)}
        moves = tuple(Move(job.move, *at, job.body, job.number) for at, job in jobs.items())
        command = ("commit", who, w.group, w.name, moves, w.alone)
        if how:
            self.pay("late_commit" if how == "late" else "lose")
        if how == "late":
            self.net[command] = True
            w.jobs |= {at: job._replace(state="flying") for at, job in jobs.items()}
            return
        won = self._run_commit(w.group, w.name, moves, w.alone)
        if not how:
            self._committed(w, moves, won)

    def _run_commit(self, group: str, name: str, moves: tuple[Move, ...], alone: bool) -> bool:
        before = dict(self.server.pending)
        won = self.server.commit(group, name, moves, alone)
        for move in moves:
            at = (group, move.stream, move.entry)
            if at in before and at not in self.server.pending:
                if before[at][0] != name:
                    self.broken.append(FENCED)
                if move.kind in "asd":
                    self.winners[group, move.body.msg] = (move.kind, move.number, name)
        return won

    def _committed(self, w: Worker, moves: tuple[Move, ...], won: bool) -> None:
        """The answer to a commit."""
        if not won:
            w.lost = True
            return
        for move in moves:
            w.jobs.pop((move.stream, move.entry), None)
            if "outcome_first" not in self.on and move.kind != "g":
                w.todo["keep", move.body.msg, move.number] = True
            if "successors_first" not in self.on and move.kind in "as" and move.body.msg in self.scenario.children:
                w.todo["child", move.body.msg, move.number] = True
            if "atomic_move" not in self.on and move.kind in "rgd":
                w.todo["move", move.kind, move.body] = True

    def do_chore(self, who: str) -> None:
        w = self.workers[who]
        name, *rest = chore = next(iter(w.todo))
        del w.todo[chore]
        if name == "keep":
            msg, number = rest
            self._store(w.group, msg, number, w.name)
        elif name == "child":
            self._publish_child(*rest)
        else:
            self.server.second_half(w.group, *rest)

    def do_arrive(self, command: tuple[Any, ...]) -> None:
        """A command that was on its way reaches the server, and its answer whoever still is there."""
        del self.net[command]
        name, who, group, consumer, *rest = command
        w = self.workers[who]
        there = w.up and w.name == consumer and not w.lost
        if name == "commit":
            won = self._run_commit(group, consumer, *rest)
            if there:
                self._committed(w, rest[0], won)
            return
        entries = self.server.read(group, consumer, self.scenario.room)
        if there and entries:
            self._accept(w, entries)

    # -- the reader's, the recoverer's and the forwarder's rounds --------------------------------------------

    def do_reconcile(self, who: str) -> None:
        w = self.workers[who]
        known = set(w.jobs) if "in_flight" in self.on else set()
        self._accept(w, self.server.missing(w.group, w.name, known))

    def do_list(self, who: str) -> None:
        """The first half of a comparison, with a pause after it."""
        self.pay("late_list")
        w = self.workers[who]
        w.listed = tuple(self.server.held(w.group, w.name))

    def do_take(self, who: str) -> None:
        """The second half."""
        w = self.workers[who]
        for at in w.listed:
            mine = self.server.pending.get((w.group, *at), ("",))[0] == w.name
            if at not in w.jobs and (mine or "look_again" not in self.on):
                found = self.server.look_for(w.group, *at)
                self._accept(w, [found] if found else [])
        w.listed = ()

    def do_sweep(self, who: str) -> None:
        w = self.workers[who]
        w.seen, w.ripe = self.observe(w, self.server.sweep(w.group))

    def observe(
        self, w: Worker, leases: dict[str, float]
    ) -> tuple[dict[str, tuple[float, int]], tuple[tuple[str, float], ...]]:
        """recoverer.Observations"""
        now = self.server.now
        seen, ripe = {}, []
        for consumer, score in sorted(leases.items()):
            if consumer == w.name:
                continue
            old = w.seen.get(consumer)
            since = old[1] if old is not None and old[0] == score else now
            seen[consumer] = (score, since)
            if score < 2 or (now - since >= LEASE if "observation" in self.on else score <= now):
                ripe.append((consumer, score))
        return seen, tuple(ripe)

    def do_claim(self, who: str, victim: str, score: float, how: str = "") -> None:
        w, server = self.workers[who], self.server
        mine_holds = server.leases.get((w.group, w.name), 0) > server.now
        given_up = server.leases.get((w.group, victim)) in (1, -1)
        answer, entries = server.claim(w.group, w.name, victim, score, self.scenario.piece)
        if entries and not mine_holds:
            self.broken.append(UNBOUGHT)
        if entries and victim not in self.gone:
            self.broken.append(STOLEN)
        if not given_up:
            for entry in entries:
                self.blame_name(w.group, entry.body.msg, victim, entry.entry)
        if answer != 2:
            w.ripe = tuple(one for one in w.ripe if one[0] != victim)
        if how:
            self.pay("lose")
        else:
            self._accept(w, entries)

    def do_promote(self, who: str) -> None:
        w, server = self.workers[who], self.server
        early = [at for at, due in server.delayed.items() if due > server.now]
        server.promote(w.group, server.now + 1)  # a clock that is one tick ahead
        if any(at not in server.delayed for at in early):
            self.broken.append(EARLY)

    def do_requeue(self, group: str, msg: str) -> None:
        """An operator wants a dead letter tried again."""
        self.pay("requeue")
        self.server.requeue(group, msg)
        del self.winners[group, msg]

    def do_purge(self, group: str, msg: str) -> None:
        """An operator gives a dead letter up."""
        self.pay("purge")
        self.server.purge(group, msg)
        del self.accepted[group, msg]

    def do_trim(self, who: str) -> None:
        self.pay("trim")
        self.server.trim(self.workers[who].group)
