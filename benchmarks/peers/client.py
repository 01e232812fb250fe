"""The producer; runs inside a peer's environment and prints one line of JSON.

    python -m benchmarks.peers.client PEER OP N [RATE]

OP is ``fill`` (the fastest way to have N tasks queued), ``enqueue`` (one call a task), ``batch`` (the peer's call for
many, 100 at a time; for clients of coroutines that have none, 100 single calls at once), ``latency`` (RATE tasks a
second) or ``result`` (one call after the other, each waiting for its value).
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from typing import Any

TASK = {
    "noop": "noop",
    "enqueue": "noop",
    "memory": "noop",
    "io": "io",
    "latency": "timed",
    "crash": "crash",
    "result": "add",
}
TEXT = "hello world"
BATCH = 100
WARM_UP = 10
MARK = "PEERS "
GATHERED = "asyncio.gather of 100 single calls"


def payload(task: str, number: int) -> dict[str, object]:
    """The arguments of one task."""
    made: dict[str, object] = {"id": number, "text": TEXT}
    return {**made, "sent": time.time()} if task in ("timed", "crash") else made


def batches(n: int) -> list[range]:
    """The numbers of the tasks, BATCH at a time."""
    return [range(low, min(n, low + BATCH)) for low in range(0, n, BATCH)]


def run_functions(client: Any, op: str, task: str, n: int, rate: float) -> dict[str, object]:
    """Do ``op`` by plain calls."""
    many = getattr(client, "send_many", None)
    began = time.perf_counter()
    if op == "batch" and many is None:
        return {"elapsed": None, "how": "no call for many"}
    if many is not None and (op == "batch" or (op == "fill" and task != "crash")):
        for numbers in batches(n):
            many(task, [payload(task, number) for number in numbers])
        return {"elapsed": time.perf_counter() - began, "how": getattr(client, "batch_how", None)}
    if op in ("fill", "enqueue"):
        send = client.send
        for number in range(n):
            send(task, payload(task, number))
        return {"elapsed": time.perf_counter() - began}
    if op == "latency":
        began += 0.05
        for number in range(n):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            client.send(task, payload(task, number))
        return {"elapsed": time.perf_counter() - began}
    took, wrong = [], 0
    for number in range(n + WARM_UP):
        before = time.perf_counter()
        value = client.call(payload(task, number))
        took.append((time.perf_counter() - before) * 1e3)
        wrong += value != number + 1
    return {"ms": took[WARM_UP:], "wrong": wrong}


async def run_coroutines(client: Any, op: str, task: str, n: int, rate: float) -> dict[str, object]:
    """Do ``op`` by awaiting."""

    async def gather(task: str, items: list[dict[str, object]]) -> None:
        await asyncio.gather(*(client.send(task, arguments) for arguments in items))

    many = getattr(client, "send_many", gather)
    began = time.perf_counter()
    if op == "enqueue" or (op == "fill" and task == "crash"):
        send = client.send
        for number in range(n):
            await send(task, payload(task, number))
        return {"elapsed": time.perf_counter() - began}
    if op in ("batch", "fill"):
        for numbers in batches(n):
            await many(task, [payload(task, number) for number in numbers])
        return {"elapsed": time.perf_counter() - began, "how": getattr(client, "batch_how", GATHERED)}
    if op == "latency":
        began += 0.05
        for number in range(n):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            await client.send(task, payload(task, number))
        return {"elapsed": time.perf_counter() - began}
    took, wrong = [], 0
    for number in range(n + WARM_UP):
        before = time.perf_counter()
        value = await client.call(payload(task, number))
        took.append((time.perf_counter() - before) * 1e3)
        wrong += value != number + 1
    return {"ms": took[WARM_UP:], "wrong": wrong}


async def opened(client: Any, op: str, task: str, n: int, rate: float) -> dict[str, object]:
    """Do ``op`` with a client that is opened and closed."""
    await client.open()
    try:
        return await run_coroutines(client, op, task, n, rate)
    finally:
        await client.close()


def main() -> None:
    """Do what the command line says."""
    peer, op, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rate = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    task = TASK[os.environ["PEERS_SCENARIO"]]
    client = importlib.import_module(f"benchmarks.peers.adapters.{peer}").Client()
    cpu = time.process_time()
    if inspect.iscoroutinefunction(client.send):
        out = asyncio.run(opened(client, op, task, n, rate))
    else:
        out = run_functions(client, op, task, n, rate)
    out["cpu"] = time.process_time() - cpu
    sys.stdout.write(f"\n{MARK}{json.dumps(out)}\n")
    sys.stdout.flush()
    os._exit(0)  # whatever threads the peer's client has


if __name__ == "__main__":
    main()
