"""What a pool was asked for. Travels from the command line to the supervisor and on to its processes as JSON."""

from __future__ import annotations

import msgspec

DEFAULT_CONCURRENCY = 100
DEFAULT_GRACE_S = 30.0
DEFAULT_LEASE_S = 6.0


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which code to run: ``app`` (``package.module:app``) or ``config_files`` (comma-separated paths)."""

    app: str | None = None
    config_files: str | None = None


class PoolOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``taskstream worker``. ``grace`` and ``lease`` in seconds; None leaves it to the configuration.

    A process is replaced once it has run ``max_tasks_per_process`` messages, or takes more memory than
    ``max_memory_per_process`` (MB of resident memory); None sets no such limit.
    ``niceness`` is added to the processes' own (nice(2)): on a box that also serves requests, those go first.
    """

    target: Target
    queues: list[str] | None = None
    broker_url: str | None = None
    results_url: str | None = None
    processes: int | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    name: str | None = None
    log_level: str | None = None
    log_format: str | None = None
    grace: float = DEFAULT_GRACE_S
    lease: float = DEFAULT_LEASE_S
    max_tasks_per_process: int | None = None
    max_memory_per_process: int | None = None
    auto_start: bool = True
    niceness: int = 0


class ProcessOptions(msgspec.Struct, frozen=True):
    """What one worker process gets: the pool's options, its own name, and the descriptors it inherited."""

    pool: PoolOptions
    name: str
    index: int
    orders_fd: int
    reports_fd: int
    table_fd: int
