"""streaQ: coroutines on Redis Streams."""

from __future__ import annotations

from benchmarks.peers.base import CONCURRENCY, IN_APP, REDIS_URL, SCENARIO, Arguments, Cell, Peer, parents


class StreaqPeer(Peer):
    """One parent with two processes."""

    name = "streaq"
    requirements = ("streaq", "uvloop")
    report = ("streaq", "coredis", "uvloop")
    variants = {
        "default": "streaq run -w 2, concurrency 32 (default 16; io: 100), prefetch = concurrency (default), uvloop, "
        "ttl=0 (no result kept), silent tasks"
    }
    concurrency = {"default": 32}
    sizes = {("", "noop"): 6_000, ("", "io"): 6_000, ("", "result"): 60}
    crash_note = "idle_timeout 10 s (default 60 s), max_tries 10 (default 3), prefetch 1"

    def conc(self, variant: str, scenario: str) -> int:
        """More than by default only where tasks wait."""
        return 100 if scenario == "io" else super().conc(variant, scenario)

    def workers(self, cell: Cell) -> list[list[str]]:
        """streaq's own command."""
        units, processes = parents(cell.scenario)
        return [[f"{cell.bindir}/streaq", "run", f"{__name__}:worker", "-w", str(processes)]] * units


PEER = StreaqPeer()

if IN_APP:
    import logging

    from streaq import Worker

    from benchmarks.peers import abodies

    logging.getLogger("streaq").setLevel(logging.ERROR)
    settings = {"idle_timeout": 10, "prefetch": 1} if SCENARIO == "crash" else {}
    worker = Worker(
        redis_url=REDIS_URL,
        concurrency=CONCURRENCY,
        queue_name="bench",
        anyio_kwargs={"use_uvloop": True},
        **settings,
    )
    options: Arguments = {
        "ttl": 60 if SCENARIO == "result" else 0,
        "silent": True,
        "max_tries": 10 if SCENARIO == "crash" else 3,
    }
    TASKS = {body.__name__: worker.task(name=body.__name__, **options)(body) for body in abodies.ALL}

    class Client:
        """The producer."""

        batch_how = "Worker.enqueue_many, 100 a call"

        async def open(self) -> None:
            """Connect."""
            await worker.__aenter__()

        async def close(self) -> None:
            """Disconnect."""
            await worker.__aexit__(None, None, None)

        async def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            await TASKS[task].enqueue(**arguments)

        async def send_many(self, task: str, items: list[Arguments]) -> None:
            """Queue many."""
            wanted = TASKS[task]
            await worker.enqueue_many([wanted.enqueue(**item) for item in items])

        async def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            task = await TASKS["add"].enqueue(**arguments)
            value: object = (await task.result(30)).result
            return value
