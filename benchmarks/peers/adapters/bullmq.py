"""bullmq's Python port: coroutines, lists and scripts; a lock on each job that is renewed."""

from __future__ import annotations

from benchmarks.peers.base import CONCURRENCY, IN_APP, REDIS_URL, SCENARIO, Arguments, Cell, Peer


class BullmqPeer(Peer):
    """Two workers."""

    name = "bullmq"
    requirements = ("bullmq", "hiredis")
    report = ("bullmq", "redis", "hiredis")
    variants = {"default": "2 x Worker(concurrency=10; io: 100) in a small asyncio script, removeOnComplete"}
    skip = {("default", "result"): "the Python port has no call that waits for a result"}
    concurrency = {"default": 10}
    sizes = {("", "noop"): 8_000, ("", "io"): 8_000}
    crash_note = "lockDuration 5 s (default 30 s), stalledInterval 5 s (default 30 s), maxStalledCount 10 (default 1)"

    def conc(self, variant: str, scenario: str) -> int:
        """More than by default only where tasks wait."""
        return 100 if scenario == "io" else super().conc(variant, scenario)

    def workers(self, cell: Cell) -> list[list[str]]:
        """It has no command: this module is one."""
        return [[cell.python, "-m", __name__]] * 2


PEER = BullmqPeer()

if IN_APP:
    import asyncio
    from typing import Any

    from bullmq import Queue, Worker

    from benchmarks.peers import abodies

    TASKS = {body.__name__: body for body in abodies.ALL}

    async def process(job: Any, token: str) -> object:
        """Run a job."""
        return await TASKS[job.name](**job.data)

    async def main() -> None:
        """Work until killed."""
        options: dict[str, object] = {"connection": REDIS_URL, "concurrency": CONCURRENCY}
        if SCENARIO == "crash":
            options.update(lockDuration=5000, stalledInterval=5000, maxStalledCount=10)
        worker = Worker("bench", process, options)
        worker.on("error", lambda error, *_: print("error", repr(error), flush=True))
        await asyncio.Event().wait()

    class Client:
        """The producer."""

        batch_how = "Queue.addBulk, 100 a call"
        options = {"removeOnComplete": True}

        async def open(self) -> None:
            """Connect."""
            self.queue = Queue("bench", {"connection": REDIS_URL})

        async def close(self) -> None:
            """Disconnect."""
            await self.queue.close()

        async def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            await self.queue.add(task, arguments, self.options)

        async def send_many(self, task: str, items: list[Arguments]) -> None:
            """Queue many."""
            await self.queue.addBulk([{"name": task, "data": item, "opts": self.options} for item in items])

    if __name__ == "__main__":
        asyncio.run(main())
