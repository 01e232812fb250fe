"""Time, and everything that may go wrong."""

from __future__ import annotations

from .acts import Acts
from .server import LEASE
from .state import At, Worker


class Faults(Acts):
    """More steps."""

    def do_tick(self) -> None:
        """Time passes, and whoever can renews: a quarter of a lease is far less than a tick."""
        self.pay("tick")
        self.server.tick()
        if not self.server.up:
            return
        for w in self.workers.values():
            if not w.up or not w.name or w.lost:
                continue
            if w.paused or w.cut or (w.hogged and (not w.supervised or "supervisor_renews" not in self.on)):
                if w.paused or w.cut or not w.supervised:
                    self.gone[w.name] = True
                continue
            if (w.group, w.name) not in self.server.leases and "register_first" not in self.on and not w.orphan:
                continue
            self.renew(w)

    def renew(self, w: Worker) -> None:
        held = self.server.renew(w.group, w.name)
        if held:
            self.gone.pop(w.name, None)
        if not w.hogged:  # else its supervisor did it, and it knows nothing of it
            w.lost = not held
            if held:
                w.deadline = self.server.now + LEASE

    def do_renew(self, who: str) -> None:
        """The first to come back after an outage."""
        self.renew(self.workers[who])

    def do_kill(self, who: str) -> None:
        self.pay("kill")
        self.die(self.workers[who])

    def do_kill_both(self, who: str) -> None:
        """The supervisor with its worker."""
        self.pay("kill_both")
        self.die(self.workers[who])
        self.workers[who].started = None

    def die(self, w: Worker) -> None:
        running = sorted((job.body.msg, at) for at, job in w.jobs.items() if job.state == "running")
        for msg, at in running:
            self.blame_name(w.group, msg, w.name, at[1])
        self._vanish(w, tuple((msg, "") for msg, _ in running))

    def do_overrun(self, who: str, at: At) -> None:
        """A message is past its hard_timeout: its supervisor kills the process, which is nobody's death."""
        self.pay("overrun")
        w = self.workers[who]
        self._vanish(w, ((w.jobs[at].body.msg, "hard_timeout"),))

    def _vanish(self, w: Worker, started: tuple[tuple[str, str], ...]) -> None:
        w.up, w.started = False, started
        w.paused = w.cut = w.hogged = False
        w.jobs, w.writes, w.todo, w.seen, w.ripe, w.listed = {}, {}, {}, {}, (), ()
        self.gone[w.name] = True

    def do_release(self, who: str) -> None:
        """The supervisor speaks for the process that died."""
        w = self.workers[who]
        assert w.started is not None
        self.server.release(w.group, w.name, w.started)
        w.started = None

    def do_restart(self, who: str) -> None:
        w = self.workers[who]
        if "restart" in self.left:
            self.pay("restart")
        w.up, w.started, w.lost = True, None, True

    def do_pause(self, who: str) -> None:
        self.pay("pause")
        self.workers[who].paused = True

    def do_resume(self, who: str) -> None:
        self.workers[who].paused = False

    def do_hog(self, who: str) -> None:
        """A handler holds the interpreter: neither greenlets nor the lease thread run."""
        self.pay("hog")
        self.workers[who].hogged = True

    def do_unhog(self, who: str) -> None:
        self.workers[who].hogged = False

    def do_cut(self, who: str) -> None:
        """The network of one worker."""
        self.pay("cut")
        self._disconnect(self.workers[who])
        self.workers[who].cut = True

    def do_mend(self, who: str) -> None:
        self.workers[who].cut = False

    def _disconnect(self, w: Worker) -> None:
        w.ripe, w.listed = (), ()
        if "unbroken" in self.on:
            w.seen = {}

    def do_outage(self) -> None:
        """Redis is away, with its data."""
        self.pay("outage")
        self.server.up = False
        self.net = {command: True for command in self.net if command[0] != "read"}
        for w in self.workers.values():
            self._disconnect(w)

    def do_return(self) -> None:
        self.server.up = True

    def do_lose_leases(self) -> None:
        self.pay("lose_leases")
        for w in self.workers.values():
            self.server.lose_leases(w.group)
            self.gone[w.name] = True

    def do_flush(self) -> None:
        """FLUSHALL: what was accepted and is not done is gone, and nothing else may break."""
        self.pay("flush")
        self.server.flush()
        self.net = {command: True for command in self.net if command[0] != "read"}
        self.accepted, self.starts, self.winners, self.blame = {}, {}, {}, {}
        for w in self.workers.values():
            self.gone[w.name] = w.orphan = True
