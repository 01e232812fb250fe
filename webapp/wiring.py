"""What a web process serves and by which settings: gathered from command line, environment and configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskstream import events, logs
from taskstream.broker import Broker
from taskstream.errors import ConfigError
from taskstream.events import Loaded
from taskstream.handler import Subscription
from taskstream.logs import LineHandler
from taskstream.openapi import document

from .settings import WebSettings, choose_broker, token_from

if TYPE_CHECKING:
    from taskstream import Taskstream


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the routes need."""

    loaded: Loaded | None
    tasks_app: Taskstream | None
    broker: Broker
    settings: WebSettings
    subscriptions: list[Subscription]

    @property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return document(self.loaded, self.tasks_app)


def gather(
    config_files: str | None,
    tasks_app: Taskstream | None,
    run_async: Callable[[Coroutine[Any, Any, Any]], Any],
    *,
    loaded: Loaded | None = None,
    broker: Broker | None = None,
    settings: WebSettings | None = None,
    broker_url: str | None = None,
    insecure: bool = False,
) -> Parts:
    """Load what is named and decide the rest; without any name the environment's ``TASKSTREAM_CONFIG_FILES`` counts.

    ``loaded``, ``broker`` and ``settings`` are taken as they are where given. Connects to nothing.

    Raises ConfigError.
    """
    if loaded is None:
        named = config_files or (os.environ.get("TASKSTREAM_CONFIG_FILES") if tasks_app is None else None)
        if named:
            loaded = events.load(named, run_async)
        elif tasks_app is None:
            raise ConfigError(
                "nothing to serve: pass --config-files or -A, or set TASKSTREAM_CONFIG_FILES=server.json,config.json"
            )
    if settings is None:
        settings = WebSettings(token_from(os.environ), insecure)
        if loaded is not None:
            server = loaded.server
            settings = WebSettings(settings.token, insecure, server.max_body_bytes, server.docs_path)
    if tasks_app is not None:
        tasks_app.load()
        tasks_app.bind(run_async)
        tasks_app.override(broker_url=broker_url)
    if broker is None:
        if loaded is not None:
            broker = Broker(choose_broker(broker_url, loaded.server.broker_url, Path.cwd()))
        else:
            assert tasks_app is not None
            broker = tasks_app.broker
    subscriptions = loaded.subscriptions(auto_start=True) if loaded is not None else []
    if tasks_app is not None:
        subscriptions = subscriptions + tasks_app.subscriptions()
        _ = tasks_app.broker, tasks_app.results  # a URL that cannot be used is told now, not to clients
    return Parts(loaded, tasks_app, broker, settings, subscriptions)


def configure_logs(parts: Parts, level: str | None = None, fmt: str | None = None) -> LineHandler:
    """Log as said, else as the environment says, else as the server's configuration does. Raises ConfigError."""
    level = level or os.environ.get("TASKSTREAM_LOG_LEVEL")
    fmt = fmt or os.environ.get("TASKSTREAM_LOG_FORMAT")
    if parts.loaded is not None:
        level, fmt = level or parts.loaded.server.log_level, fmt or parts.loaded.server.log_format
    return logs.configure(level or "INFO", fmt or "text")
