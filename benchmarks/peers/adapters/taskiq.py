"""taskiq with taskiq-redis: coroutines, on a stream or a list."""

from __future__ import annotations

from benchmarks.peers.base import IN_APP, REDIS_URL, SCENARIO, VARIANT, Arguments, Cell, Peer, parents


class TaskiqPeer(Peer):
    """One parent with two processes."""

    name = "taskiq"
    requirements = ("taskiq", "taskiq-redis", "hiredis", "uvloop", "orjson")
    report = ("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop", "orjson")
    variants = {
        "stream": "taskiq worker -w 2 --max-async-tasks 100 --no-parse, RedisStreamBroker(xread_count=100), "
        "orjson serializer, uvloop (picked up by its command), no result backend",
        "list": "as stream, but ListQueueBroker (no acknowledgement)",
    }
    skip = {("list", scenario): "stream is measured" for scenario in ("io", "latency", "result")}
    producer_variant = "stream"
    crash_note = (
        "stream: ack after execution (default when_saved), idle_timeout 10 s (default 600 s), "
        "unacknowledged_lock_timeout 5 s (default: none); list: no acknowledgement exists"
    )

    def workers(self, cell: Cell) -> list[list[str]]:
        """taskiq's own command."""
        units, processes = parents(cell.scenario)
        return [
            [
                *(f"{cell.bindir}/taskiq", "worker", f"{__name__}:broker", "-w", str(processes)),
                *("--max-async-tasks", str(cell.conc), "--no-parse", "--log-level", "ERROR"),
            ]
        ] * units


PEER = TaskiqPeer()

if IN_APP:
    from taskiq.serializers import ORJSONSerializer
    from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

    from benchmarks.peers import abodies

    settings = {"idle_timeout": 10_000, "unacknowledged_lock_timeout": 5.0} if SCENARIO == "crash" else {}
    if VARIANT == "list":
        broker = ListQueueBroker(REDIS_URL, queue_name="bench")
    else:
        broker = RedisStreamBroker(REDIS_URL, queue_name="bench", **settings)
    broker = broker.with_serializer(ORJSONSerializer())
    if SCENARIO == "result":
        broker = broker.with_result_backend(RedisAsyncResultBackend(REDIS_URL, result_ex_time=60))
    TASKS = {body.__name__: broker.task(task_name=body.__name__)(body) for body in abodies.ALL}

    class Client:
        """The producer."""

        async def open(self) -> None:
            """Connect."""
            await broker.startup()

        async def close(self) -> None:
            """Disconnect."""
            await broker.shutdown()

        async def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            await TASKS[task].kiq(**arguments)

        async def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait; it polls."""
            task = await TASKS["add"].kiq(**arguments)
            result = await task.wait_result(check_interval=0.005, timeout=30)
            value: object = result.return_value
            return value
