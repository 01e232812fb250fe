"""huey on Redis, with processes and with greenlets; no acknowledgement, so a killed worker's tasks are gone."""

from __future__ import annotations

from benchmarks.peers.base import IN_APP, REDIS_URL, SCENARIO, Arguments, Cell, Peer

_GREENLETS = (
    "from gevent import monkey; monkey.patch_all(); from huey.bin.huey_consumer import consumer_main; consumer_main()"
)


class HueyPeer(Peer):
    """One parent with two processes, or two parents with greenlets."""

    name = "huey"
    requirements = ("huey", "redis", "hiredis", "gevent")
    report = ("huey", "redis", "hiredis", "gevent")
    variants = {
        "process": "huey_consumer -k process -w 2 -n -q, RedisHuey(results=False)",
        "greenlet": "2 x huey_consumer -k greenlet -w 100 -n -q (gevent patched), RedisHuey(results=False)",
    }
    concurrency = {"process": 1}
    skip = {("process", "io"): "one task per process"}
    producer_variant = "process"
    crash_note = "no acknowledgement exists in RedisHuey: a popped task is gone (documented: at most once)"

    def workers(self, cell: Cell) -> list[list[str]]:
        """huey's own command."""
        target = f"{__name__}.huey"
        if cell.variant == "greenlet":
            return [[cell.python, "-c", _GREENLETS, target, "-k", "greenlet", "-w", str(cell.conc), "-n", "-q"]] * 2
        units, processes = (2, "1") if cell.scenario == "crash" else (1, "2")
        return [[f"{cell.bindir}/huey_consumer", target, "-k", "process", "-w", processes, "-n", "-q"]] * units


PEER = HueyPeer()

if IN_APP:
    from huey import RedisHuey

    from benchmarks.peers import bodies

    # redis-py 8 caps a pool at 100 connections; 100 greenlets and the scheduler need more.
    url = REDIS_URL + "?max_connections=500"
    huey = RedisHuey("bench", url=url, **({"notify_result": True} if SCENARIO == "result" else {"results": False}))
    TASKS = {body.__name__: huey.task()(body) for body in bodies.ALL}

    class Client:
        """The producer; arguments go by position, since huey takes a keyword ``id`` as the task's own id."""

        def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            TASKS[task](*arguments.values())

        def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            value: object = TASKS["add"](*arguments.values()).get(blocking=True, timeout=30)
            return value
