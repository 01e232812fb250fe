"""arq: coroutines, one sorted set; at least once by a key in progress that expires."""

from __future__ import annotations

from benchmarks.peers.base import CONCURRENCY, IN_APP, REDIS_PORT, SCENARIO, VARIANT, Arguments, Cell, Peer


class ArqPeer(Peer):
    """Two workers."""

    name = "arq"
    requirements = ("arq", "hiredis")
    report = ("arq", "redis", "hiredis")
    variants = {
        "default": "2 x arq, max_jobs=100, poll_delay 0.5 s (default), keep_result=0, log_results off",
        "fastpoll": "as default with poll_delay=0.01 s in worker and Job.result",
    }
    sizes = {("default", "result"): 40, ("", "noop"): 5_000, ("", "io"): 5_000}
    skip = {("default", scenario): "same as fastpoll but for polling" for scenario in ("io", "crash", "memory")}
    producer_variant = "fastpoll"
    crash_note = (
        "at-least-once by design; job_timeout 5 s (default 300 s), so the key in progress expires after 15 s "
        "(default 310 s); max_tries 10 (default 5)"
    )

    def workers(self, cell: Cell) -> list[list[str]]:
        """arq's own command."""
        return [[f"{cell.bindir}/arq", f"{__name__}.WorkerSettings", "--custom-log-dict", f"{__name__}.LOG"]] * 2


PEER = ArqPeer()

if IN_APP:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from arq import create_pool
    from arq.connections import RedisSettings
    from arq.worker import func

    from benchmarks.peers import abodies

    LOG = {"version": 1, "disable_existing_loggers": False}
    POLL_S = 0.01 if VARIANT == "fastpoll" else 0.5

    def _wrapped(body: Callable[..., Awaitable[object]]) -> Any:
        async def run(context: object, **arguments: object) -> object:
            return await body(**arguments)

        return func(run, name=body.__name__)

    class WorkerSettings:
        """What arq's command reads."""

        functions = [_wrapped(body) for body in abodies.ALL]
        redis_settings = RedisSettings(port=REDIS_PORT)
        max_jobs = CONCURRENCY
        poll_delay = POLL_S
        keep_result = 60 if SCENARIO == "result" else 0
        log_results = False
        job_timeout = 5 if SCENARIO == "crash" else 300
        max_tries = 10 if SCENARIO == "crash" else 5

    class Client:
        """The producer."""

        async def open(self) -> None:
            """Connect."""
            self.pool = await create_pool(RedisSettings(port=REDIS_PORT))

        async def close(self) -> None:
            """Disconnect."""
            await self.pool.aclose()

        async def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            await self.pool.enqueue_job(task, **arguments)

        async def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            job = await self.pool.enqueue_job("add", **arguments)
            return await job.result(timeout=30, poll_delay=POLL_S)
