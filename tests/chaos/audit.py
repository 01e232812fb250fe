"""Accounts for every call of a chaos run: one end each, and no run without a reason. Reads only; changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from taskstream.results import FAILURE, SUCCESS, Outcome

from .records import Call, Records, Run, Span

COMMIT_S = 3.0
"""How long an outcome may take from the end of its run to the acknowledgement, on a busy machine."""

MAX_DELIVERIES = 3


def ends(
    calls: Sequence[Call],
    runs: Mapping[int, Sequence[Run]],
    outcomes: Mapping[str, Sequence[Outcome]],
    letters: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """What is wrong with the calls' ends: each accepted one is a success on disk, or a dead letter with a reason."""
    problems = []
    known = set()
    for call in calls:
        known.add(call.number)
        if call.verdict == "refused" and call.number in runs:
            problems.append(f"{call.number}: its call was refused as not sent, and it ran")
        if call.verdict == "accepted":
            found = outcomes.get(call.message_id, ())
            problem = _end(call, runs.get(call.number, ()), found, letters.get(call.message_id))
            if problem:
                problems.append(f"{call.number} ({call.kind}, {call.message_id}): {problem}")
    problems += [f"{number}: ran although nobody called it" for number in runs.keys() - known]
    doubled = [number for number, count in Counter(call.number for call in calls).items() if count > 1]
    return problems + [f"{number}: called twice" for number in doubled]


def _end(call: Call, runs: Sequence[Run], found: Sequence[Outcome], letter: Mapping[str, Any] | None) -> str | None:
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


def repeats(records: Records, runs: Mapping[int, Sequence[Run]], kinds: Mapping[int, str], lease_s: float) -> list[str]:
    """Runs that were followed by another one although nothing had come in between."""
    killed = dict(records.killed)
    for number, kind in kinds.items():
        if kind == "poison":
            killed.update({run.pid: run.begin for run in runs.get(number, ()) if run.pid not in killed})
    problems = []
    for number, all_of_it in runs.items():
        for run in all_of_it[:-1]:
            if not _excused(run, records, killed, lease_s):
                problems.append(f"{number} ({kinds.get(number)}): ran again after {run}, all: {all_of_it}")
    return problems


def _excused(run: Run, records: Records, killed: Mapping[int, float], lease_s: float) -> bool:
    """Whether another run was due: it failed, or its process came to harm before the end was acknowledged."""
    if run.failed is not None:
        return True
    # Until then the end of this run may have been on its way.
    open_until = float("inf") if run.end is None else run.end + COMMIT_S
    for outage in records.outages:
        if run.end is not None and outage.touches(run.end - COMMIT_S, open_until):
            open_until = max(open_until, outage.end + COMMIT_S)
    freezes = [span for pid, span in records.frozen if pid == run.pid]
    for span in freezes:
        if span.touches(run.begin, open_until):
            open_until = max(open_until, span.end + COMMIT_S)
    if any(span.end - span.begin >= lease_s and span.touches(run.begin, open_until) for span in freezes):
        return True
    died = killed.get(run.pid)
    if died is not None and run.begin <= died <= open_until:
        return True
    stopped = records.stopped.get(run.pid)
    return stopped is not None and any(_kept_from_leaving(stopped, outage) for outage in records.outages)


def _kept_from_leaving(stopped: float, outage: Span) -> bool:
    """Whether a process that was told to stop may have ended without an answer from the server."""
    return outage.touches(stopped - COMMIT_S, stopped + 20.0)
