"""dramatiq on Redis, with threads and with gevent."""

from __future__ import annotations

from benchmarks.peers.base import IN_APP, REDIS_URL, SCENARIO, Arguments, Cell, Peer, parents


class DramatiqPeer(Peer):
    """One parent with two processes."""

    name = "dramatiq"
    requirements = ("dramatiq[redis]", "hiredis", "gevent")
    report = ("dramatiq", "redis", "hiredis", "gevent")
    variants = {
        "threads": "dramatiq -p 2 -t 8 (the defaults on 2 cores; io: -t 100), default middleware",
        "gevent": "dramatiq-gevent -p 2 -t 100, default middleware",
    }
    concurrency = {"threads": 8}
    sizes = {("", "noop"): 20_000, ("threads", "io"): 8_000, ("", "io"): 12_000}
    producer_variant = "gevent"
    crash_note = (
        "acks after execution (default), heartbeat_timeout 10 s (default 60 s), maintenance_chance 100000 per million "
        "(default 1000)"
    )

    def conc(self, variant: str, scenario: str) -> int:
        """More threads than by default only where tasks wait."""
        return 100 if (variant, scenario) == ("threads", "io") else super().conc(variant, scenario)

    def workers(self, cell: Cell) -> list[list[str]]:
        """dramatiq's own commands."""
        command = f"{cell.bindir}/dramatiq" + ("-gevent" if cell.variant == "gevent" else "")
        units, processes = parents(cell.scenario)
        return [[command, __name__, "-p", str(processes), "-t", str(cell.conc)]] * units


PEER = DramatiqPeer()

if IN_APP:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    from benchmarks.peers import bodies

    settings = {"heartbeat_timeout": 10_000, "maintenance_chance": 100_000} if SCENARIO == "crash" else {}
    # redis-py 8 caps a pool at 100 connections; with -t 100 dramatiq then logs "Too many connections", restarts its
    # consumer after 3 s and tries acks again after 5 s.
    broker = RedisBroker(url=REDIS_URL + "?max_connections=500", **settings)
    if SCENARIO == "result":
        from dramatiq.results import Results
        from dramatiq.results.backends import RedisBackend

        broker.add_middleware(Results(backend=RedisBackend(url=REDIS_URL), store_results=True))
    dramatiq.set_broker(broker)
    TASKS = {body.__name__: dramatiq.actor(body) for body in bodies.ALL}

    class Client:
        """The producer."""

        def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            TASKS[task].send(**arguments)

        def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            value: object = TASKS["add"].send(**arguments).get_result(block=True, timeout=30_000)
            return value
