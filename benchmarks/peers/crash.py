"""The scenario ``crash``: two parents run tasks of 20 ms, and one of them is killed and started again, five times."""

from __future__ import annotations

import time
from collections import defaultdict

from benchmarks.peers import probe
from benchmarks.peers.probe import DONE, Record
from benchmarks.peers.session import Session

KILLS = 5
BULK_S = 120.0
WAIT_S = 120.0
LATE_DUPLICATES_S = 15.0
LATE_S = 3.0


def crash(session: Session, n: int) -> dict[str, object]:
    """Kill five times while ``n`` tasks run; wait for the rest, and then for late duplicates."""
    session.server.flush()
    session.client("fill", n)
    workers = session.start_workers()
    begin, killed, last_kill = time.time(), 0, 0.0
    while time.time() - begin < BULK_S and killed < KILLS:
        time.sleep(0.02)
        if probe.count(session.probe) < 2 * n / (KILLS + 2) * (killed + 1) or time.time() - last_kill < 1.0:
            continue
        # Only a parent that has run something since its last start.
        recent = {record.pid for record in probe.read(session.probe)[-400:] if record.at > last_kill}
        if not (workers.pids(0) & recent) and time.time() - max(last_kill, begin) < 8:
            continue
        workers.kill_one(0)
        last_kill = time.time()
        killed += 1
        workers.start_one(0)
    end = time.time() + WAIT_S
    while time.time() < end:
        if len({record.id for record in probe.read(session.probe) if record.kind == DONE}) >= n:
            break
        time.sleep(0.25)
    time.sleep(LATE_DUPLICATES_S)
    return {"n": n, "kills": killed, **verdict(probe.read(session.probe), n, begin)}


def verdict(records: list[Record], n: int, begin: float) -> dict[str, object]:
    """What became of ``n`` tasks whose workers started at ``begin`` (Unix time, s)."""
    done: dict[int, list[float]] = defaultdict(list)
    started: dict[int, int] = defaultdict(int)
    for record in records:
        if record.kind == DONE:
            done[record.id].append(record.at)
        else:
            started[record.id] += 1
    lost = [number for number in range(n) if number not in done]
    # Queues are first in, first out: how long after the first completion of any task queued later did this one end?
    # That covers tasks as well that the killed worker held and had not started.
    late, frontier = [0.0], float("inf")
    for number in sorted(done, reverse=True):
        first = min(done[number])
        late.append(first - frontier)
        frontier = min(frontier, first)
    return {
        "lost": len(lost),
        "lost_after_start": sum(number in started for number in lost),
        "completed_again": sum(len(times) > 1 for times in done.values()),
        "extra_completions": sum(len(times) - 1 for times in done.values()),
        "started_again": sum(times > 1 for times in started.values()),
        "late_tasks": sum(seconds > LATE_S for seconds in late),
        "latest_s": max(late),
        "all_done_s": max((min(times) for times in done.values()), default=begin) - begin,
    }
