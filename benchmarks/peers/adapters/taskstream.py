"""Taskstream itself, through its documented interface; what is installed is the checkout this file lies in."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.base import FOLDER, IN_APP, REDIS_URL, VARIANT, Arguments, Cell, Peer, parents

SOURCE = str(Path(__file__).resolve().parents[3])


class TaskstreamPeer(Peer):
    """One pool of two processes."""

    name = "taskstream"
    requirements = (SOURCE,)
    report = ("taskstream", "redis", "hiredis", "gevent")
    variants = {
        "off": "taskstream worker --processes 2 --concurrency 100 -l WARNING, results off",
        "checkpoint": "the same, every result kept on disk, written to the disk at checkpoints",
        "commit": "the same, every result kept on disk, on the disk before the commit (default)",
    }
    sizes = {
        ("", "noop"): 400_000,
        ("", "io"): 50_000,
        ("", "enqueue"): 20_000,
        ("", "batch"): 200_000,
        ("", "memory"): 100_000,
    }
    skip = {
        ("off", "result"): "keeps none",
        **{
            (variant, scenario): "off is measured"
            for variant in ("checkpoint", "commit")
            for scenario in ("io", "latency", "memory", "crash")
        },
    }
    producer_variant = "off"
    crash_note = "all by default (lease 6 s)"

    def workers(self, cell: Cell) -> list[list[str]]:
        """taskstream's own command."""
        units, processes = parents(cell.scenario)
        return [
            [
                *(f"{cell.bindir}/taskstream", "worker", "-A", f"{__name__}:app", "--processes", str(processes)),
                *("--concurrency", str(cell.conc), "-l", "WARNING"),
            ]
        ] * units


PEER = TaskstreamPeer()

if IN_APP:
    from benchmarks.peers import bodies
    from taskstream import Taskstream

    if VARIANT == "off":
        app = Taskstream("peers", broker=REDIS_URL, results=None)
    else:
        app = Taskstream("peers", broker=REDIS_URL, results=f"file://{FOLDER}/results", result_fsync=VARIANT)
    TASKS = {body.__name__: app.task(body) for body in bodies.ALL}

    class Client:
        """The producer."""

        batch_how = "enqueue_many, 100 a call"

        def send(self, task: str, arguments: Arguments) -> None:
            """Queue one."""
            TASKS[task].delay(**arguments)

        def send_many(self, task: str, items: list[Arguments]) -> None:
            """Queue many."""
            wanted = TASKS[task]
            app.enqueue_many(wanted.s(**item) for item in items)

        def call(self, arguments: Arguments) -> object:
            """Run ``add`` and wait."""
            value: object = TASKS["add"].delay(**arguments).get(timeout=30)
            return value
