"""What there is besides the server: workers with their supervisors, the network, the disk, producers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .flat import Flat
from .server import Body, Server

MAX_ATTEMPTS = 2

At = tuple[str, int]


@dataclass(frozen=True)
class Scenario:
    """Who is there and how much may go wrong.

    ``messages`` of producers; ``workers`` with their groups, of which ``later`` come later; ``ends`` of a run (a ok,
    f failed); ``children`` what a message publishes; ``killers`` end every process that runs them (then
    nothing else may end one), ``together`` with its supervisor; ``room`` how many a worker holds, ``piece`` how many a
    claim takes; ``faults`` how often each may happen, ``hit`` (or all) which workers; ``readers`` (or all) read what
    is new; ``first`` are the steps that everything starts with.
    """

    messages: tuple[str, ...] = ("a",)
    workers: dict[str, str] = field(default_factory=lambda: {"w1": "g", "w2": "g"})
    later: tuple[str, ...] = ()
    ends: str = "a"
    children: dict[str, str] = field(default_factory=dict)
    killers: tuple[str, ...] = ()
    together: bool = False
    room: int = 1
    piece: int = 1
    faults: dict[str, int] = field(default_factory=dict)
    hit: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    first: tuple[tuple[Any, ...], ...] = ()


class Job(NamedTuple):
    """A message in a worker: held, running, ran (its move decided), writing, kept, sent, flying (its commit)."""

    body: Body
    number: int
    deaths: int = 0
    state: str = "held"
    move: str = ""
    overran: bool = False


class Worker(Flat):
    """One worker process and its supervisor."""

    STATE = (
        "name", "life", "up", "supervised", "paused", "cut", "hogged", "lost", "orphan", "deadline", "alone", "ripe",
        "listed", "started", "jobs", "seen", "writes", "todo",
    )  # fmt: skip

    def __init__(self, who: str, group: str) -> None:
        self.who, self.group = who, group
        self.name = ""  # until it registers
        self.life = 0
        self.up = self.supervised = True
        self.paused = self.cut = self.hogged = self.lost = False
        self.orphan = False  # everything in Redis vanished under it
        self.deadline = 0
        self.alone = True
        self.ripe: tuple[tuple[str, float], ...] = ()  # (consumer, score) that may be taken over, as of the last sweep
        self.listed: tuple[At, ...] = ()  # what the server says is held here, as of a while ago
        # What had started in a process that died, and why its run was ended on purpose or '', until its release.
        self.started: tuple[tuple[str, str], ...] | None = None
        self.jobs: dict[At, Job] = {}
        self.seen: dict[str, tuple[float, int]] = {}  # consumer: (score, since)
        self.writes: dict[tuple[str, int], str] = {}  # (message, delivery) on the way to the disk: written by
        self.todo: dict[tuple[Any, ...], bool] = {}  # what a rule that is off leaves for after the commit


class State(Flat):
    """Everything. Ghosts are kept for the invariants; no step looks at them."""

    STATE = (
        "server", "net", "disk", "left", "unsent",
        "winners", "accepted", "starts", "gone", "blame", "kids",
    )  # fmt: skip

    def __init__(self, scenario: Scenario, on: frozenset[str], server: Server | None = None) -> None:
        self.scenario, self.on = scenario, on
        self.server = server if server is not None else Server(on)
        self.workers = {who: Worker(who, group) for who, group in scenario.workers.items()}
        self.net: dict[tuple[Any, ...], bool] = {}  # commands on their way
        self.disk: dict[tuple[str, str], tuple[int, str]] = {}  # (group, message): (delivery, written by)
        self.left = dict(scenario.faults)
        self.unsent = dict.fromkeys(scenario.messages, False)  # True: maybe sent
        self.winners: dict[tuple[str, str], tuple[str, int, str]] = {}  # (group, message): (kind, delivery, by)
        self.accepted: dict[tuple[str, str], bool] = {}  # (group, message)
        self.starts: dict[tuple[str, str, int], bool] = {}  # (group, message, delivery)
        self.gone: dict[str, bool] = {}  # consumer names whose messages others may take over
        self.blame: dict[tuple[str, str, str, int], bool] = {}  # (group, message, name, entry): the name died with it
        self.kids: dict[tuple[str, str], bool] = {}  # (parent, successor)
        self.broken: list[str] = []

    def pay(self, fault: str) -> None:
        if self.left[fault] == 1:
            del self.left[fault]
        else:
            self.left[fault] -= 1

    def sure(self, worker: Worker) -> bool:
        """Whether the worker may believe in its lease."""
        return not worker.lost and (self.server.now < worker.deadline or "deadline" not in self.on)

    def ready(self, worker: Worker, job: Job) -> bool:
        """Whether a job waits for nothing but its commit."""
        if job.state == "ran" and "outcome_first" not in self.on:
            return True
        child = job.move in "as" and job.body.msg in self.scenario.children and "successors_first" in self.on
        return job.state == ("sent" if child else "kept")

    def blame_name(self, group: str, msg: str, name: str, entry: int) -> None:
        # A lost lease key takes along who was given up already, so that these are counted once more.
        self.blame[group, msg, f"{name} {self.left.get('lose_leases')}", entry] = True

    def absolve_name(self, group: str, msg: str, name: str, entry: int) -> None:
        for at in [
            at for at in self.blame if at[:2] == (group, msg) and at[2].startswith(f"{name} ") and at[3] == entry
        ]:
            del self.blame[at]

    def blamed_wrongly(self) -> bool:
        """Whether more deaths are counted than there were."""
        counts: dict[tuple[str, str], int] = {}
        for group, msg, *_ in self.blame:
            counts[group, msg] = counts.get((group, msg), 0) + 1
        return any(n > counts.get(at, 0) for at, n in self.server.deaths.items())
