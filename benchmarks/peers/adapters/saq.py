"""SAQ: coroutines, lists."""

from __future__ import annotations

from benchmarks.peers.base import CONCURRENCY, IN_APP, REDIS_URL, SCENARIO, Arguments, Cell, Peer, parents


class SaqPeer(Peer):
    """One parent with two processes."""

    name = "saq"
    requirements = ("saq[redis,hiredis]", "typing_extensions", "croniter")
    report = ("saq", "redis", "hiredis")
    variants = {"default": "saq --workers 2, concurrency 10 (default; io: 100), job ttl=-1 (no result kept)"}
    concurrency = {"default": 10}
    sizes = {("", "noop"): 8_000}
    crash_note = "Job(timeout=5, retries=10) (defaults 10 s and 1), timers sweep every 5 s (default 60 s)"

    def conc(self, variant: str, scenario: str) -> int:
        """More than by default only where tasks wait."""
        return 100 if scenario == "io" else super().conc(variant, scenario)

    def workers(self, cell: Cell) -> list[list[str]]:
        """saq's own command."""
        units, processes = parents(cell.scenario)
        return [[f"{cell.bindir}/saq", f"{__name__}.settings", "--workers", str(processes), "--quiet"]] * units


PEER = SaqPeer()

if IN_APP:
    from collections.abc import Awaitable, Callable

    from saq import Queue

    from benchmarks.peers import abodies

    queue = Queue.from_url(REDIS_URL, name="bench")

    def _wrapped(body: Callable[..., Awaitable[object]]) -> tuple[str, Callable[..., Awaitable[object]]]:
        async def run(context: object, **arguments: object) -> object:
            return await body(**arguments)

        return body.__name__, run

    settings: Arguments = {
        "queue": queue,
        "functions": [_wrapped(body) for body in abodies.ALL],
        "concurrency": CONCURRENCY,
    }
    OPTIONS: Arguments = {"ttl": -1}
    if SCENARIO == "crash":
        OPTIONS.update(timeout=5, retries=10)
        settings["timers"] = {"sweep": 5}

    class Client:
        """The producer."""

        async def open(self) -> None:
            """Connect."""
            await queue.connect()

        async def close(self) -> None:
            """Disconnect."""
            await queue.disconnect()

        async def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            await queue.enqueue(task, **arguments, **OPTIONS)

        async def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait; it polls, every 0.5 s by default."""
            value: object = await queue.apply("add", timeout=30, poll_interval=0.005, **arguments)
            return value
