"""From what a pool was asked to run to what a process needs: subscriptions, broker URL, result store, logs."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskstream.errors import ConfigError
from taskstream.handler import Subscription
from taskstream.results import open_store
from taskstream.results.base import ResultStore
from taskstream.schedule import Schedule

from .options import PoolOptions

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass
class Loaded:
    """What one process runs."""

    subscriptions: list[Subscription]
    broker_url: str
    store: ResultStore | None
    log_level: str
    log_format: str
    schedules: Sequence[Schedule] = ()


def load(options: PoolOptions, run_async: RunAsync, worker: str = "") -> Loaded:
    """Import the code that ``options`` names, to be run by the process called ``worker``. Raises ConfigError."""
    if options.target.app is not None:
        return _load_app(options, options.target.app, run_async, worker)
    if options.target.config_files is not None:
        return _load_events(options, options.target.config_files, run_async)
    raise ConfigError("nothing to run: name code with -A package.module:app or --config-files=server.json,config.json")


def _load_app(options: PoolOptions, target: str, run_async: RunAsync, worker: str) -> Loaded:
    from taskstream.app.loading import load_app

    app = load_app(target)
    app.override(options.broker_url, options.results_url)
    app.bind(run_async, worker)
    return Loaded(
        app.subscriptions(options.queues),
        app.broker.url,
        app.results,
        options.log_level or "INFO",
        options.log_format or "text",
        app.schedules(),
    )


def _load_events(options: PoolOptions, config_files: str, run_async: RunAsync) -> Loaded:
    from taskstream.events import load as load_events

    loaded = load_events(config_files, run_async)
    server = loaded.server
    broker_url = options.broker_url or os.environ.get("TASKSTREAM_BROKER") or server.broker_url
    if broker_url is None:
        raise ConfigError(
            "no broker: give one with --broker, TASKSTREAM_BROKER or streams.connection_str in server.json"
        )
    results_url, base = server.results_url, server.base
    elsewhere = options.results_url or os.environ.get("TASKSTREAM_RESULTS")
    if elsewhere:
        results_url, base = elsewhere, Path.cwd()
    subscriptions = loaded.subscriptions(options.auto_start)
    if options.queues is not None:
        subscriptions = _chosen(subscriptions, options.queues)
    if not subscriptions:
        raise ConfigError(f"{config_files}: no STREAM event, so there is nothing for a worker to consume")
    return Loaded(
        subscriptions,
        broker_url,
        open_store(results_url, base=base, retention=server.retention, fsync=server.fsync, broker_url=broker_url),
        options.log_level or server.log_level,
        options.log_format or server.log_format,
    )


def _chosen(subscriptions: list[Subscription], names: list[str]) -> list[Subscription]:
    """Those that ``names`` mean: by stream, by label, or by the event's own name. Raises ConfigError."""
    chosen = []
    for name in names:
        found = [one for one in subscriptions if name in (one.stream, one.label, one.label.rpartition(".")[2])]
        if not found:
            known = ", ".join(one.label for one in subscriptions)
            raise ConfigError(f"--queues: nothing here is called {name!r}; there are {known}")
        chosen += [one for one in found if one not in chosen]
    return chosen
