"""Celery on Redis, with its four pools."""

from __future__ import annotations

from benchmarks.peers.base import IN_APP, REDIS_URL, SCENARIO, VARIANT, Arguments, Cell, Peer


class CeleryPeer(Peer):
    """One parent with two processes, or two parents."""

    name = "celery"
    requirements = ("celery[redis]", "hiredis", "gevent")
    report = ("celery", "kombu", "redis", "hiredis", "gevent")
    variants = {
        "prefork": "one parent, -P prefork -c 2, prefetch multiplier 64",
        "gevent": "2 parents x -P gevent -c 100, prefetch multiplier 4",
        "threads": "2 parents x -P threads -c 8 (io: -c 100), prefetch multiplier 4",
        "solo": "2 parents x -P solo, prefetch multiplier 64",
    }
    concurrency = {"prefork": 2, "solo": 1, "threads": 8}
    sizes = {("", "noop"): 4_000, ("", "io"): 4_000, ("", "enqueue"): 4_000, ("", "memory"): 5_000}
    skip = {
        **{(variant, "io"): "one task per process" for variant in ("prefork", "solo")},
        **{(variant, "crash"): "gevent and prefork are measured" for variant in ("threads", "solo")},
    }
    producer_variant = "prefork"
    crash_note = (
        "task_acks_late, task_reject_on_worker_lost, prefetch multiplier 1, visibility_timeout 10 s (default 3600 s)"
    )

    def conc(self, variant: str, scenario: str) -> int:
        """More threads than by default only where tasks wait."""
        return 100 if (variant, scenario) == ("threads", "io") else super().conc(variant, scenario)

    def workers(self, cell: Cell) -> list[list[str]]:
        """celery's own command."""
        one = [
            *(
                f"{cell.bindir}/celery",
                "-A",
                __name__,
                "worker",
                "-P",
                cell.variant,
                "-c",
                "1" if cell.variant == "solo" else str(cell.conc),
            ),
            *("-l", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
        if cell.variant == "prefork" and cell.scenario != "crash":
            return [[*one, "-n", "w0@%h"]]
        return [[*one, "-n", f"w{number}@%h"] for number in range(2)]


PEER = CeleryPeer()

if IN_APP:
    from celery import Celery

    from benchmarks.peers import bodies

    app = Celery("bench", broker=REDIS_URL, backend=REDIS_URL if SCENARIO == "result" else None)
    app.conf.update(
        task_ignore_result=SCENARIO != "result",
        worker_prefetch_multiplier=64 if VARIANT in ("prefork", "solo") else 4,
        broker_connection_retry_on_startup=True,
        worker_send_task_events=False,
    )
    if SCENARIO == "crash":
        app.conf.update(
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            worker_prefetch_multiplier=1,
            broker_transport_options={"visibility_timeout": 10},
        )
    TASKS = {body.__name__: app.task(name=body.__name__)(body) for body in bodies.ALL}

    class Client:
        """The producer."""

        def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            TASKS[task].apply_async(kwargs=arguments)

        def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            value: object = TASKS["add"].apply_async(kwargs=arguments).get(timeout=30)
            return value
