"""The application factory: wires the routes to what they need. Serves nothing by itself."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import click
from flask import Flask
from flask.cli import ScriptInfo

from taskstream import logs
from taskstream.aio import Bridge, threading_backend
from taskstream.broker import Broker
from taskstream.errors import ConfigError
from taskstream.events import Loaded

from . import auth, docs, errors, events, health, metrics, mgmt, state, tasks, tracking
from .held import Held
from .lean import LeanFlask
from .settings import WebSettings
from .wiring import Parts, configure_logs, gather

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from taskstream import Taskstream


def create_app(
    config_files: str | None = None,
    *,
    loaded: Loaded | None = None,
    tasks_app: Taskstream | None = None,
    broker: Broker | None = None,
    settings: WebSettings | None = None,
) -> Flask:
    """The Flask app for an event app (``config_files``, or one that is ``loaded``), a ``tasks_app``, or both.

    Without any of them the configuration is what ``TASKSTREAM_CONFIG_FILES`` names. ``broker`` and ``settings``
    come from configuration and environment unless given. Runs every request event's ``__init_event__``.

    Raises ConfigError.
    """
    run_async = Bridge(threading_backend()).run
    try:
        parts = gather(config_files, tasks_app, run_async, loaded=loaded, broker=broker, settings=settings)
        if loaded is None and not logging.getLogger(logs.ROOT).handlers:
            configure_logs(parts)  # nobody else has: this is `flask run` or another WSGI server
        return build(parts)
    except ConfigError as error:
        context = click.get_current_context(silent=True)
        if context is not None and context.find_object(ScriptInfo) is not None:
            raise click.UsageError(str(error)) from None  # under `flask run`: one line instead of a traceback
        raise


def build(parts: Parts, held: Held | None = None) -> Flask:
    """The Flask app for what was gathered; ``held`` says how many threads may be held.

    Raises ConfigError for a docs path that cannot be used.
    """
    broker, settings, subscriptions = parts.broker, parts.settings, parts.subscriptions
    requests = parts.loaded.requests if parts.loaded is not None else []
    for event in requests:
        event.start()

    def before(environ: WSGIEnvironment) -> None:
        environ[metrics.STARTED] = time.perf_counter()
        auth.check_access(settings, environ)

    def after(environ: WSGIEnvironment, route: str | None, status: int) -> list[tuple[str, str]]:
        count(environ, route, status)
        return tracking.headers_of(environ)

    # By the name it is installed under, which finds templates and static files however it was imported.
    app = LeanFlask("taskstream_webapp", before, after)
    errors.register(app)
    count = metrics.register(app, broker, {found.stream for found in subscriptions})
    health.register(app, broker)
    state.register(app, broker, subscriptions, settings.docs_path)
    mgmt.register(app, broker, [found for found in subscriptions if found.default is not None])
    events.register(app, requests, broker.publish, settings.max_body_bytes)
    if parts.tasks_app is not None:
        tasks.register(app, parts.tasks_app, held or Held(), settings.max_body_bytes)
    docs.register(app, parts.document, settings.docs_path)
    return app
