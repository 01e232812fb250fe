"""The scenarios. Each takes a session and a number of tasks, and returns what was measured.

CPU and commands of ``noop`` and ``io`` are counted from the moment a fifth of the tasks is done, so that the start of
the workers counts for nobody; rates are from the first record to the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import percentiles
from benchmarks.peers import probe
from benchmarks.peers.crash import crash
from benchmarks.peers.machine import Workers
from benchmarks.peers.session import Session

STALL_S = 25.0
LATENCY_PER_S = 50
IDLE_S = 5.0

Found = dict[str, object]


def wait_count(path: Path, n: int, timeout: float, stall: float = STALL_S) -> int:
    """Until the probe holds ``n`` records, or nothing has come for ``stall`` seconds; the number reached."""
    begin = moved = time.monotonic()
    last = 0
    while True:
        reached, now = probe.count(path), time.monotonic()
        if reached >= n or now - begin > timeout:
            return reached
        if reached != last:
            last, moved = reached, now
        elif now - moved > stall:
            return reached
        time.sleep(0.005)


def enqueue(session: Session, n: int) -> Found:
    """Tasks queued in a second by one producer: one by one, and by the peer's call for many."""
    out: Found = {}
    server, size = session.server, session.peer.size
    more = size(session.variant, "batch") / size(session.variant, "enqueue")
    for op, count in (("enqueue", n), ("batch", round(n * more))):
        server.flush()
        cpu = server.cpu_s()
        found = session.client(op, count, timeout=120)
        if found["elapsed"]:
            out[f"{op}_per_s"] = count / found["elapsed"]
            out[f"{op}_client_us"] = found["cpu"] * 1e6 / count
            out[f"{op}_redis_us"] = (server.cpu_s() - cpu) * 1e6 / count
        if op == "batch":
            out["batch_how"] = found.get("how")
    return out


def _drain(session: Session, n: int, timeout: float) -> Found:
    server = session.server
    server.flush()
    filled = session.client("fill", n)
    workers = session.start_workers()
    skipped = wait_count(session.probe, n // 5, timeout)
    cpu, server_cpu, commands = workers.cpu_s(), server.cpu_s(), server.commands()
    reached = wait_count(session.probe, n, timeout)
    cpu, server_cpu, commands = workers.cpu_s() - cpu, server.cpu_s() - server_cpu, server.commands() - commands
    time.sleep(0.3)
    session.stop_workers()
    records = probe.read(session.probe)
    out: Found = {
        "fill_per_s": n / filled["elapsed"],
        "records": reached,
        "distinct": len({record.id for record in records}),
        "peak_rss_mib": workers.peak_rss / 2**20,
        "processes": workers.peak_processes,
        "complete": reached >= n,
    }
    if len(records) > 1:
        elapsed = max(record.at for record in records) - min(record.begun or record.at for record in records)
        counted = max(1, reached - skipped)
        out["per_s"] = (len(records) - 1) / elapsed
        out["elapsed_s"] = elapsed
        out["worker_us"] = cpu * 1e6 / counted
        out["redis_us"] = server_cpu * 1e6 / counted
        out["commands_per_task"] = commands / counted
    return out


def noop(session: Session, n: int) -> Found:
    """A queue full of tasks that do nothing, then workers."""
    return _drain(session, n, timeout=100)


def io(session: Session, n: int) -> Found:
    """The same with tasks that wait for 20 ms; the best possible time is told beside."""
    return {**_drain(session, n, timeout=100), "ideal_s": n * 0.020 / (2 * session.conc)}


def idle_workers(session: Session) -> Workers:
    """Workers that have started and wait on an empty queue."""
    session.server.flush()
    session.client("fill", 0)  # some peers need the producer to create the stream or the group
    workers = session.start_workers()
    workers.wait_idle()
    return workers


def latency(session: Session, n: int) -> Found:
    """From ``send`` to the body, 50 tasks a second, by one clock."""
    workers = idle_workers(session)
    cpu, server_cpu, begin = workers.cpu_s(), session.server.cpu_s(), time.monotonic()
    session.client("latency", n, LATENCY_PER_S, timeout=n / LATENCY_PER_S + 30)
    reached = wait_count(session.probe, n, 15, stall=5)
    elapsed = time.monotonic() - begin
    return {
        "records": reached,
        **percentiles([record.at - record.begun for record in probe.read(session.probe)]),
        "worker_pct": (workers.cpu_s() - cpu) / elapsed * 100,
        "redis_pct": (session.server.cpu_s() - server_cpu) / elapsed * 100,
        "complete": reached >= n,
    }


def result(session: Session, n: int) -> Found:
    """From the call to its value, one after the other."""
    idle_workers(session)
    found = session.client("result", n, timeout=100)
    return {**percentiles([ms / 1e3 for ms in found["ms"]]), "wrong": found["wrong"]}


def memory(session: Session, n: int) -> Found:
    """What idle workers take, and what a waiting task takes in Redis."""
    server = session.server
    workers = idle_workers(session)
    time.sleep(2)
    out: Found = {
        "idle_rss_mib": workers.rss() / 2**20,
        "idle_pss_mib": workers.pss() / 2**20,
        "processes": len(workers.members()),
    }
    cpu, server_cpu = workers.cpu_s(), server.cpu_s()
    time.sleep(IDLE_S)
    out["idle_worker_pct"] = (workers.cpu_s() - cpu) / IDLE_S * 100
    out["idle_redis_pct"] = (server.cpu_s() - server_cpu) / IDLE_S * 100
    session.stop_workers()
    if session.variant == (session.peer.producer_variant or session.variant):
        server.flush()
        time.sleep(0.3)
        before = server.used_memory()
        session.client("fill", n, timeout=240)
        time.sleep(0.3)
        out["bytes_per_task"] = (server.used_memory() - before) / n
        out["queued"] = n
    return out


RUN: dict[str, Callable[[Session, int], Found]] = {
    "enqueue": enqueue,
    "noop": noop,
    "io": io,
    "latency": latency,
    "result": result,
    "memory": memory,
    "crash": crash,
}
