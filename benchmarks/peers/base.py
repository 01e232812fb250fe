"""What an adapter is.

An adapter is one module ``adapters/NAME.py``. It is imported in two places: by the driver, which has none of the peers
installed, and inside the peer's own environment, by its workers and by client.py. So the peer's library is imported
only under ``if IN_APP:``. A module has

- ``PEER``, an instance of a Peer, for the driver;
- ``Client``, for client.py: ``send(task, arguments)``, optionally ``send_many(task, [arguments])`` with ``batch_how``,
  and ``call(arguments)``, which runs ``add`` and waits for its value. Clients of coroutines also have ``open()`` and
  ``close()``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCENARIOS = ("enqueue", "noop", "io", "latency", "result", "memory", "crash")

IN_APP = "PEERS_VARIANT" in os.environ
REDIS_URL = os.environ.get("PEERS_REDIS", "")
REDIS_PORT = int(os.environ.get("PEERS_REDIS_PORT", "0"))
VARIANT = os.environ.get("PEERS_VARIANT", "")
SCENARIO = os.environ.get("PEERS_SCENARIO", "")
CONCURRENCY = int(os.environ.get("PEERS_CONCURRENCY", "100"))
FOLDER = os.environ.get("PEERS_FOLDER", "")
"""A folder of this run's own, on a disk; it is empty at first and deleted afterwards."""

IO_CONCURRENCY = 100
CRASH_CONCURRENCY = 2

SIZES = {
    "enqueue": 10_000,
    "batch": 20_000,
    "noop": 15_000,
    "io": 10_000,
    "latency": 500,
    "result": 500,
    "memory": 20_000,
    "crash": 2_000,
}
"""Tasks in one run, where a peer names no other number; ``batch`` is the second half of ``enqueue``."""

Arguments = dict[str, object]


@dataclass(frozen=True)
class Cell:
    """What is run: a variant in a scenario, by the Python and the commands of an environment, on the server ``url``."""

    variant: str
    scenario: str
    python: str
    bindir: str
    conc: int
    url: str


class Peer:
    """What the driver knows of a task queue."""

    name: str = ""
    requirements: Sequence[str] = ()
    """For pip."""
    report: Sequence[str] = ()
    """Distributions whose versions are told."""
    variants: Mapping[str, str] = {}
    """Variant → one line on its settings."""
    concurrency: Mapping[str, int] = {}
    """Variant → tasks in flight in one process outside of ``crash``, where it is not IO_CONCURRENCY."""
    sizes: Mapping[tuple[str, str], int] = {}
    """(variant or "", scenario) → tasks in one run, so that it takes five to fifteen seconds."""
    skip: Mapping[tuple[str, str], str] = {}
    """(variant, scenario) → why it is not run."""
    producer_variant: str | None = None
    """The variant that stands for all of them where only the producer is measured."""
    crash_note: str = ""
    """Settings of ``crash``, and what they are by default."""

    def workers(self, cell: Cell) -> list[list[str]]:
        """The command lines of the parents; together they use two cores."""
        raise NotImplementedError

    def conc(self, variant: str, scenario: str) -> int:
        """Tasks in flight in one process."""
        return CRASH_CONCURRENCY if scenario == "crash" else self.concurrency.get(variant, IO_CONCURRENCY)

    def size(self, variant: str, scenario: str) -> int:
        """Tasks in one run."""
        return self.sizes.get((variant, scenario)) or self.sizes.get(("", scenario)) or SIZES[scenario]


def parents(scenario: str) -> tuple[int, int]:
    """Parents, and processes of each, of a queue whose parent starts several: ``crash`` kills one of two parents."""
    return (2, 1) if scenario == "crash" else (1, 2)
