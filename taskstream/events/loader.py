"""From configuration files to the events they name, ready to be served and consumed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from taskstream.app.context import package_of
from taskstream.config import AppConfig, ServerConfig, read_files, split_paths
from taskstream.config_schemas import STREAM_TYPE
from taskstream.errors import ConfigError
from taskstream.events.apps import EventApp
from taskstream.events.chain import RunAsync
from taskstream.events.module import load_module
from taskstream.events.request import RequestEvent
from taskstream.events.stream import StreamEvent
from taskstream.handler import Subscription


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that the configuration files named."""

    server: ServerConfig
    apps: list[EventApp]
    requests: list[RequestEvent]
    streams: list[StreamEvent]

    def subscriptions(self, auto_start: bool) -> list[Subscription]:
        """What a worker consumes; ``auto_start`` is whether it does so before anybody says start."""
        kept = self.server.dead_retention
        return [replace(event.subscription(auto_start), dead_retention=kept) for event in self.streams]


def load(config_files: str | Path | Iterable[str | Path], run_async: RunAsync) -> Loaded:
    """Read the files (text separated by commas, or paths) and import the modules they name.

    The working directory and the folders of the files are put on ``sys.path``. ``run_async`` runs the coroutines
    of ``async def`` steps and hooks. Raises ConfigError: one line that names the file or module.
    """
    paths = split_paths(config_files)
    server, configs = read_files(paths)
    for folder in (*(config.path.resolve().parent for config in reversed(configs)), Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    apps: list[EventApp] = []
    requests: list[RequestEvent] = []
    streams: list[StreamEvent] = []
    for config in configs:
        app = _app(config)
        apps.append(app)
        for event in config.events.values():
            name = package_of(event.name)
            if not name.isidentifier():
                raise ConfigError(f"{config.path}: event {event.name!r} cannot be a module: {name!r} is no Python name")
            module = load_module(app.package, name, event.name, is_request=event.type != STREAM_TYPE)
            if event.type == STREAM_TYPE:
                streams.append(StreamEvent(app, event, module, run_async))
            else:
                requests.append(RequestEvent(app, event, module, run_async))
    _check_groups(streams)
    _check_limits(requests, streams)
    return Loaded(server, apps, requests, streams)


def _check_groups(streams: list[StreamEvent]) -> None:
    """Two events in one group would each get an arbitrary part of the messages."""
    readers: dict[tuple[str, str], StreamEvent] = {}
    for event in streams:
        other = readers.setdefault((event.stream, event.group), event)
        if other is not event:
            raise ConfigError(
                f"events {other.label} and {event.label} share consumer group {event.group!r} of stream "
                f"{event.stream!r}, so each would miss messages: give each a consumer_group of its own"
            )


def _check_limits(requests: list[RequestEvent], streams: list[StreamEvent]) -> None:
    """What is kept would count as if it waited, and the stream be full for as long."""
    keep = {event.stream: event for event in streams if event.settings.retention}
    writers: list[RequestEvent | StreamEvent] = [*requests, *streams]
    for writer in writers:
        keeper = keep.get(writer.write_stream or "")
        if keeper is not None and writer.max_length is not None:
            raise ConfigError(
                f"stream {keeper.stream!r} cannot have both: the retention that event {keeper.label} wants, and the "
                f"max_length that event {writer.label} gives it, which counts what is kept: leave one of them out"
            )


def _app(config: AppConfig) -> EventApp:
    app = EventApp(config.name, config.version, config.env, config.events, config.path.resolve().parent)
    if not app.package.isidentifier():
        raise ConfigError(f"{config.path}: app {app.name!r} cannot be a package: {app.package!r} is no Python name")
    return app
