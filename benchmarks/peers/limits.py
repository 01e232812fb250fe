"""The least that a queue on Redis Streams in Python has to do on this machine: loops of redis-py, no queue at all.

They are run beside the peers, in the same turn, as the measure of the machine.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import redis

from benchmarks.peers.machine import Server

STREAM, GROUP = "limit", "g"
TEXT = "hello world"
BATCH = 100

XADD_ONE = "XADD one by one, redis-py + hiredis"
XADD_MANY = "XADD pipelined x100, redis-py + hiredis"
READ_1 = "XREADGROUP 100 + XACK + XDEL loop, 1 process"
READ_2 = "XREADGROUP 100 + XACK + XDEL loop, 2 processes"


def xadd(server: Server, n: int, batch: int) -> dict[str, float]:
    """XADD of a small JSON document, ``batch`` in a round trip."""
    client = redis.Redis(port=server.port)
    cpu, server_cpu, begin = time.process_time(), server.cpu_s(), time.perf_counter()
    if batch == 1:
        for number in range(n):
            client.xadd(STREAM, {"d": json.dumps({"id": number, "text": TEXT})})
    else:
        for low in range(0, n, batch):
            pipeline = client.pipeline(transaction=False)
            for number in range(low, min(n, low + batch)):
                pipeline.xadd(STREAM, {"d": json.dumps({"id": number, "text": TEXT})})
            pipeline.execute()
    elapsed = time.perf_counter() - begin
    return {
        "per_s": n / elapsed,
        "client_us": (time.process_time() - cpu) * 1e6 / n,
        "redis_us": (server.cpu_s() - server_cpu) * 1e6 / n,
    }


def noop(id: int, text: str) -> None:
    """What the loop calls."""


def consume(port: int, name: str, delete: bool, ready: Barrier, out: Any) -> None:
    """Read, decode, call and acknowledge until nothing is left; tell when, how many, and at what CPU."""
    # RESP2, so that the reply has the same shape in every version of redis-py.
    client: Any = redis.Redis(port=port, protocol=2)
    client.ping()
    ready.wait(60)
    cpu, begin, total = time.process_time(), time.time(), 0
    while reply := client.xreadgroup(GROUP, name, {STREAM: ">"}, count=BATCH):
        ids = []
        for entry_id, fields in reply[0][1]:
            noop(**json.loads(fields[b"d"]))
            ids.append(entry_id)
        pipeline = client.pipeline(transaction=False)
        pipeline.xack(STREAM, GROUP, *ids)
        if delete:
            pipeline.xdel(STREAM, *ids)
        pipeline.execute()
        total += len(ids)
    out.put((begin, time.time(), total, time.process_time() - cpu))


def read(server: Server, n: int, processes: int, delete: bool = True) -> dict[str, float]:
    """Several processes work off one stream by the barest loop."""
    xadd(server, n, BATCH)
    server.client.xgroup_create(STREAM, GROUP, id="0")
    spawning = multiprocessing.get_context("spawn")
    out, ready = spawning.Queue(), spawning.Barrier(processes)
    readers = [
        spawning.Process(target=consume, args=(server.port, f"c{number}", delete, ready, out))
        for number in range(processes)
    ]
    server_cpu = server.cpu_s()
    for reader in readers:
        reader.start()
    found = [out.get(timeout=180) for _ in readers]
    for reader in readers:
        reader.join()
    return {
        "per_s": sum(one[2] for one in found) / (max(one[1] for one in found) - min(one[0] for one in found)),
        "client_us": sum(one[3] for one in found) * 1e6 / n,
        "redis_us": (server.cpu_s() - server_cpu) * 1e6 / n,
    }


def redis_benchmark(server: Server, n: int, pipeline: int) -> dict[str, float]:
    """The server's own load generator, without Python."""
    output = subprocess.run(
        [
            *("redis-benchmark", "-p", str(server.port), "-n", str(n), "-P", str(pipeline)),
            *("-c", "1" if pipeline == 1 else "50", "-q", "xadd", STREAM, "*", "d"),
            json.dumps({"id": 123456, "text": TEXT}),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    ).stdout
    return {"per_s": float(re.findall(r"([\d.]+) requests per second", output)[-1])}


BESIDE = {"enqueue": (XADD_ONE, XADD_MANY), "noop": (READ_1, READ_2)}
"""Scenario → the loops that are run in each of its turns."""


def loops(server: Server, n: int) -> dict[str, Callable[[], dict[str, float]]]:
    """All loops by name; ``n`` messages for the fast ones."""
    found: dict[str, Callable[[], dict[str, float]]] = {
        XADD_ONE: lambda: xadd(server, n // 5, 1),
        XADD_MANY: lambda: xadd(server, n, BATCH),
        READ_1: lambda: read(server, n, 1),
        READ_2: lambda: read(server, n, 2),
        "XREADGROUP 100 + XACK loop, 2 processes": lambda: read(server, n, 2, delete=False),
    }
    if shutil.which("redis-benchmark"):
        found["redis-benchmark XADD, 1 client, no pipeline"] = lambda: redis_benchmark(server, n // 2, 1)
        found["redis-benchmark XADD, 50 clients, -P 100"] = lambda: redis_benchmark(server, n * 5, 100)
    return found
