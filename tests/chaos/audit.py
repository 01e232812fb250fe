"""Accounts for every call of a chaos run: one end each, and no run without a reason. Reads only; changes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from taskstream.results import FAILURE, SUCCESS, Outcome

from .records import CHILD, Call, Records, Run, Span

COMMIT_S = 3.0
"""How long an outcome may take from the end of its run to the acknowledgement, on a busy machine."""

RECOVERY_S = COMMIT_S + 5.0
"""The same after something kept it back: tries are up to 5 s apart then."""

MAX_DELIVERIES = 3

CLOCKS_S = 0.2
"""How far the time a worker noted for a start may be from the handler's own record."""


WAKE_S = 0.5
"""How soon after a freeze a run begins whose process was stopped between its look at the lease and the handler."""


def without_woken(
    runs: Mapping[int, Sequence[Run]], records: Records, lease_s: float
) -> tuple[dict[int, list[Run]], list[Run]]:
    """``runs`` without those that began as their process woke up, after others had taken their messages over.

    No look at a lease can prevent them, because a process may be stopped between the look and the handler. They must
    come to nothing: the run that counts is the one of whoever took over. Where everybody who did was killed inside of
    the handler or failed, and nobody runs the message afterwards, it is the woken one that has taken over, or has read
    what is tried again: it is not left out.
    """
    frozen = _by_pid([one for one in records.frozen if one[1].end - one[1].begin >= lease_s])
    killed: dict[int, list[float]] = defaultdict(list)
    for pid, at in records.killed:
        killed[pid].append(at)

    def over(run: Run, until: float) -> bool:
        if run.failed is not None:
            return run.failed < until
        unfinished = run.end is None
        return unfinished and any(run.begin <= at <= until for at in killed.get(run.pid, ()))

    kept: dict[int, list[Run]] = {}
    woken: list[Run] = []
    for number, all_of_it in runs.items():
        kept[number] = []
        for run in all_of_it:
            meanwhile = [
                other
                for span in frozen.get(run.pid, ())
                if span.begin <= run.begin <= span.end + WAKE_S
                for other in all_of_it
                if other.pid != run.pid and span.begin <= other.begin < run.begin
            ]
            rightful = run is all_of_it[-1] and all(over(other, run.begin) for other in meanwhile)
            (woken if meanwhile and not rightful else kept[number]).append(run)
    return kept, woken


class Ends:
    """Takes all calls one by one (``take``), then says what is wrong with their ends."""

    def __init__(
        self,
        runs: Mapping[int, Sequence[Run]],
        outcomes_of: Callable[[str], Sequence[Outcome]],
        letters: Mapping[str, Mapping[str, Any]],
        epoch_s: float = 0.0,
        woken: Sequence[Run] = (),
    ) -> None:
        """``outcomes_of`` gives the final outcomes of a message; ``epoch_s`` is wall clock time at monotonic 0.

        ``woken`` are runs that must not have won.
        """
        self._epoch_s = epoch_s
        self._woken = {run.number: run for run in woken}
        self._runs = runs
        self._outcomes_of = outcomes_of
        self._letters = letters
        self._known: set[int] = set()
        self._lettered: set[str] = set()
        self._ids_unknown = False
        self.verdicts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        """Accepted calls by kind."""
        self.done = 0
        self.dead: Counter[str] = Counter()
        """Accepted calls that became dead letters, by the error's type."""
        self.condemned = 0
        """Of these, those that died as poison without being any: what befell their processes was not their doing."""
        self.poison: list[int] = []
        self.problems: list[str] = []

    def take(self, call: Call) -> None:
        """Account for one call, and for its second stage."""
        self.verdicts[call.verdict] += 1
        self._account(call)
        if call.child != "-":
            # What ran to its end has sent its second stage before.
            sent = any(run.end is not None for run in self._runs.get(call.number, ()))
            verdict = "accepted" if sent else "unsure"
            self._account(Call(verdict, call.number | CHILD, "second", call.child))

    def strangers(self) -> list[str]:
        """Runs and dead letters of calls that nobody made."""
        found = [f"{number}: ran although nobody called it" for number in self._runs.keys() - self._known]
        if not self._ids_unknown:
            found += [f"dead letter {one}: nobody called it" for one in self._letters.keys() - self._lettered]
        return found

    def _account(self, call: Call) -> None:
        if call.number in self._known:
            self.problems.append(f"{call.number}: called twice")
        self._known.add(call.number)
        if call.kind == "poison":
            self.poison.append(call.number)
        runs = self._runs.get(call.number, ())
        if call.verdict == "refused" and runs:
            self.problems.append(f"{call.number}: its call was refused as not sent, and it ran")
        if call.verdict != "accepted":
            self._ids_unknown |= call.verdict == "unsure"
            return
        self.kinds[call.kind] += 1
        letter = self._letters.get(call.message_id)
        found = self._outcomes_of(call.message_id)
        problem = end_problem(call, runs, found, letter) or winner_problem(runs, found[0], self._epoch_s)
        woken = self._woken.get(call.number)
        if problem is None and woken is not None and not _is_of_no_run(found[0]):
            started = found[0].started_ms / 1000 - self._epoch_s
            if all(abs(started - woken.begin) < abs(started - run.begin) for run in runs):
                problem = f"its outcome, begun at {started:.3f}, is of a run that had lost it: {woken}; others: {runs}"
        if problem:
            self.problems.append(f"{call.number} ({call.kind}, {call.message_id}): {problem}")
        elif letter is None:
            self.done += 1
        else:
            self._lettered.add(call.message_id)
            self.dead[str(letter["error"]["type"])] += 1
            self.condemned += letter["error"]["type"] == "WorkerDied" and call.kind != "poison"


def end_problem(
    call: Call, runs: Sequence[Run], found: Sequence[Outcome], letter: Mapping[str, Any] | None
) -> str | None:
    """What is wrong with the end of an accepted call: a success on disk, or a dead letter with a reason."""
    if len(found) != 1:
        return f"{len(found)} outcomes on disk, {len(runs)} runs, dead letter: {letter}"
    (outcome,) = found
    if outcome.state == SUCCESS:
        if letter is not None:
            return f"a success and a dead letter: {letter}"
        if bytes(outcome.value) != str(call.number).encode():
            return f"the value of another one: {bytes(outcome.value)!r}"
        if call.kind in ("hopeless", "poison"):
            return "a success that cannot be"
        return None if any(run.end is not None for run in runs) else "a success without an end"
    if outcome.state != FAILURE or letter is None:
        return f"state {outcome.state}, dead letter: {letter}"
    error = letter["error"]
    if error["type"] == "WorkerDied" and letter["deaths"] >= MAX_DELIVERIES:
        return None
    if call.kind == "hopeless" and error["type"] == "ValueError" and "always fails" in error["message"]:
        return None
    return f"a dead letter for no good reason: {error}"


def winner_problem(runs: Sequence[Run], outcome: Outcome, epoch_s: float) -> str | None:
    """What is wrong with which run won: one that was taken over has lost, so the one that began last has to."""
    if len(runs) < 2 or _is_of_no_run(outcome):
        return None
    *earlier, last = runs
    if last.end is None and last.failed is None:
        return f"its last run has no end, and an earlier one won: {runs}"
    started = outcome.started_ms / 1000 - epoch_s
    away = abs(started - last.begin)
    if away > CLOCKS_S and any(abs(started - run.begin) < away for run in earlier):
        return f"its outcome is of the run that began at {started:.3f}, not of the last one: {runs}"
    return None


def _is_of_no_run(outcome: Outcome) -> bool:
    """Whether a message was buried for its deaths, without a run: the outcome's start says when, shortly after one."""
    return outcome.error is not None and outcome.error.type == "WorkerDied"


class Repeats:
    """Finds for every run that was followed by another one why that had to be."""

    def __init__(self, records: Records, lease_s: float) -> None:
        self._lease_s = lease_s
        self._killed: dict[int, list[float]] = defaultdict(list)
        for pid, at in records.killed:
            self._killed[pid].append(at)
        self._stopped = _by_pid(records.stopped)
        self._frozen = _by_pid(records.frozen)
        self._cut_off = _by_pid(records.cut_off)
        self._world = [*records.outages, *records.full]
        self.reasons: Counter[str] = Counter()
        self.after_stop = 0
        """Repeats of what a process that was told to stop cleanly had begun, for no other reason."""
        self.finished: Counter[int] = Counter()
        """By process that was killed: how many runs had ended there and were repeated all the same."""
        self.problems: list[str] = []

    def poisoned(self, runs: Iterable[Run]) -> None:
        """``runs`` of one poison message each killed their process."""
        for run in runs:
            self._killed[run.pid].append(run.begin)

    def judge(self, runs: Mapping[int, Sequence[Run]], concurrency: int) -> None:
        """Look at all runs."""
        unfinished: Counter[int] = Counter()
        for number, all_of_it in runs.items():
            for run in all_of_it:
                if run.end is None and run.failed is None and run.pid in self._killed:
                    unfinished[run.pid] += 1
            for run, _ in pairwise(all_of_it):
                reason = self.reason(run)
                self.reasons[reason or "none"] += 1
                if reason == "killed" and run.end is not None:
                    self.finished[run.pid] += 1
                if reason is None:
                    stopped = any(span.end >= run.begin for span in self._stopped.get(run.pid, ()))
                    self.after_stop += stopped
                    why = "its process was stopped cleanly" if stopped else "for no reason"
                    self.problems.append(f"{number}: ran again {why}, after {run}; all: {all_of_it}")
        self.problems += [
            f"process {pid} had {count} messages running at its death, more than {concurrency}"
            for pid, count in unfinished.items()
            if count > concurrency * len(self._killed[pid])
        ]

    def reason(self, run: Run) -> str | None:
        """Why another run was due: it failed, or its process came to harm before the end was acknowledged."""
        if run.failed is not None:
            return "failed"
        frozen, cut_off = self._frozen.get(run.pid, ()), self._cut_off.get(run.pid, ())
        # Until then the end of this run may have been on its way.
        open_until = float("inf") if run.end is None else run.end + COMMIT_S
        if run.end is not None:
            for span in sorted((*self._world, *frozen, *cut_off)):
                if span.touches(run.end - COMMIT_S, open_until):
                    open_until = max(open_until, span.end + RECOVERY_S)
        if any(run.begin <= died <= open_until for died in self._killed.get(run.pid, ())):
            return "killed"
        for name, spans in (("frozen", frozen), ("cut off", cut_off)):
            if any(span.end - span.begin >= self._lease_s and span.touches(run.begin, open_until) for span in spans):
                return name
        for stopped in self._stopped.get(run.pid, ()):
            # It finished, and ended without an answer from the server, or with an outcome that could not be written.
            kept = any(span.touches(stopped.begin - COMMIT_S, stopped.end) for span in (*self._world, *cut_off))
            if kept and run.end is not None and run.end <= stopped.end:
                return "stopped without broker or disk"
        return None


def _by_pid(spans: Iterable[tuple[int, Span]]) -> dict[int, list[Span]]:
    found: dict[int, list[Span]] = defaultdict(list)
    for pid, span in spans:
        found[pid].append(span)
    return found
