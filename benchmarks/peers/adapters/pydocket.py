"""docket: coroutines on Redis Streams."""

from __future__ import annotations

from benchmarks.peers.base import CONCURRENCY, IN_APP, REDIS_URL, SCENARIO, VARIANT, Arguments, Cell, Peer


class PydocketPeer(Peer):
    """Two workers."""

    name = "pydocket"
    requirements = ("pydocket", "hiredis")
    report = ("pydocket", "redis", "hiredis")
    variants = {
        "default": "2 x Worker(concurrency=100, schedule_automatic_tasks=False), Docket(execution_ttl=0)",
        "fastpoll": "as default with minimum_check_interval=10 ms (default 250 ms)",
    }
    sizes = {("default", "noop"): 4_000, ("default", "io"): 4_000}
    skip = {("default", scenario): "same as fastpoll but for polling" for scenario in ("crash", "memory")}
    producer_variant = "fastpoll"
    crash_note = "redelivery_timeout 10 s (default 300 s)"

    def workers(self, cell: Cell) -> list[list[str]]:
        """It has no fitting command: this module is one."""
        return [[cell.python, "-m", __name__]] * 2


PEER = PydocketPeer()

if IN_APP:
    import asyncio
    from datetime import timedelta

    from docket import Docket, Worker

    from benchmarks.peers import abodies

    TASKS = {body.__name__: body for body in abodies.ALL}

    def made() -> Docket:
        """The docket."""
        # redis-py 8 caps a pool at 100 connections, which concurrency=100 exceeds: the worker then logs "Redis is
        # unavailable" and pauses for 5 s.
        docket = Docket(
            name="bench",
            url=REDIS_URL + "?max_connections=500",
            execution_ttl=timedelta(seconds=60 if SCENARIO == "result" else 0),
        )
        for body in abodies.ALL:
            docket.register(body)
        return docket

    async def main() -> None:
        """Work until killed."""
        settings = {"redelivery_timeout": timedelta(seconds=10)} if SCENARIO == "crash" else {}
        if VARIANT == "fastpoll":
            settings["minimum_check_interval"] = timedelta(milliseconds=10)
        async with (
            made() as docket,
            Worker(docket, concurrency=CONCURRENCY, schedule_automatic_tasks=False, **settings) as worker,
        ):
            await worker.run_forever()

    class Client:
        """The producer."""

        batch_how = "Docket.add_many, 100 a call"

        async def open(self) -> None:
            """Connect."""
            self.docket = await made().__aenter__()

        async def close(self) -> None:
            """Disconnect."""
            await self.docket.__aexit__(None, None, None)

        async def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            await self.docket.add(TASKS[task])(**arguments)

        async def send_many(self, task: str, items: list[Arguments]) -> None:
            """Queue many."""
            body = TASKS[task]
            await self.docket.add_many([self.docket.call(body)(**item) for item in items])

        async def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            execution = await self.docket.add(TASKS["add"])(**arguments)
            value: object = await execution.get_result(timeout=timedelta(seconds=30))
            return value

    if __name__ == "__main__":
        asyncio.run(main())
