"""The two configuration files of an event app: reading them into plain settings, by taskstream.config_schemas.

Whatever is wrong in a file is a ConfigError of one line that names the file, the key and what was expected.
Nothing here imports an app's modules or opens a connection.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import marshmallow as ma

from taskstream.config_schemas import AppFile, ServerFile, UnknownKey
from taskstream.errors import ConfigError, one_line
from taskstream.handler import DEAD_RETENTION_S

DEFAULT_DOCS_PATH = "/api/docs"
DEFAULT_RESULTS = "file://results"
DEFAULT_RETENTION = 7 * 86400.0
DEFAULT_MAX_BODY = 1024 * 1024

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_WHOLE = "_whole"
_MISSING = ma.fields.Field.default_error_messages["required"]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What ``server.json`` says. ``base`` is the folder that relative paths start from.

    ``retention`` (of results) and ``dead_retention`` (of dead letters) in seconds. ``broker_url`` and ``docs_path``
    are None where the file names none (or null); ``results_url`` None keeps no results.
    """

    base: Path
    log_level: str = "INFO"
    log_format: str = "text"
    broker_url: str | None = None
    docs_path: str | None = DEFAULT_DOCS_PATH
    max_body_bytes: int = DEFAULT_MAX_BODY
    results_url: str | None = DEFAULT_RESULTS
    retention: float = DEFAULT_RETENTION
    fsync: str = "commit"
    dead_retention: float = DEAD_RETENTION_S


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """A STREAM event's ``config.stream``; None where the file says nothing.

    Seconds: ``timeout``, ``hard_timeout``, ``retry_backoff``, ``delay_auto_start``, ``retention`` (of what is done; 0:
    none is kept). Milliseconds: ``step_delay`` between two steps of one message, ``throttle_ms`` between two batches.
    """

    timeout: float | None = None
    hard_timeout: float | None = None
    batch_size: int | None = None
    max_retries: int | None = None
    max_deliveries: int | None = None
    retry_backoff: float | None = None
    step_delay: float = 0.0
    throttle_ms: float = 0.0
    concurrency: int | None = None
    delay_auto_start: float = 0.0
    retention: float = 0.0


@dataclass(frozen=True, slots=True)
class EventConfig:
    """One entry of ``events``. ``read_stream`` is (stream, consumer group), set for STREAM events only.

    ``max_length``: how many entries ``write_stream`` may have, None for any number.
    """

    name: str
    type: str
    read_stream: tuple[str, str] | None = None
    write_stream: str | None = None
    max_length: int | None = None
    settings: StreamSettings = field(default_factory=StreamSettings)


@dataclass(frozen=True, slots=True)
class AppConfig:
    """What an app's ``config.json`` says."""

    path: Path
    name: str
    version: str
    env: Mapping[str, Any]
    events: Mapping[str, EventConfig]


_APP_KEYS = frozenset(("app", "env", "events"))


def split_paths(config_files: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files of ``--config-files``: text separated by commas, or paths. Raises ConfigError if there is none."""
    parts = config_files.split(",") if isinstance(config_files, str) else config_files
    parts = [parts] if isinstance(parts, Path) else parts
    found = [Path(part.strip() if isinstance(part, str) else part) for part in parts if str(part).strip()]
    if not found:
        raise ConfigError("no configuration file was named: give --config-files=server.json,config.json")
    return found


def read_files(paths: Sequence[Path]) -> tuple[ServerConfig, list[AppConfig]]:
    """Read the files, in any order: one with ``app`` is an app's, one without is the server's.

    Raises ConfigError.
    """
    server: ServerConfig | None = None
    server_path: Path | None = None
    apps: list[AppConfig] = []
    for path in paths:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected an object {{…}}, found {type(content).__name__}")
        if content.keys() & _APP_KEYS:
            apps.append(_app(path, content))
        elif server is not None:
            raise ConfigError(f"{path}: {server_path} has the server's settings already; only one file can")
        else:
            server, server_path = _server(path, content), path
    if not apps:
        raise ConfigError(f"{', '.join(map(str, paths))}: no app in it; one file must have the key 'app'")
    seen: dict[str, Path] = {}
    for app in apps:
        other = seen.setdefault(f"{app.name} {app.version}", app.path)
        if other is not app.path:
            raise ConfigError(f"{app.path}: app {app.name} {app.version} is also in {other}")
    return server or ServerConfig(apps[0].path.resolve().parent), apps


def read_json(path: Path) -> Any:
    """A file's JSON with ``${NAME}`` in its texts replaced from the environment. Raises ConfigError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (working directory {Path.cwd()})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    try:
        return _substitute(path, "", json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno} column {error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except ValueError as error:  # from the two hooks below, or an integer of thousands of digits
        raise ConfigError(f"{path}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is given twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"not valid JSON: {text}")


def _substitute(path: Path, where: str, value: Any) -> Any:
    if isinstance(value, str):

        def replace(match: re.Match[str]) -> str:
            found = os.environ.get(match[1])
            if found is None:
                raise ConfigError(f"{path}: {where}: environment variable {match[1]!r} is not set")
            return found

        return _VARIABLE.sub(replace, value)
    if isinstance(value, dict):
        return {key: _substitute(path, f"{where}.{key}" if where else key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(path, f"{where}.{index}", item) for index, item in enumerate(value)]
    return value


def _validated(path: Path, schema: ma.Schema, content: dict[str, Any]) -> Any:
    try:
        return schema.load(content)
    except ma.ValidationError as error:
        text = " ".join(one_line(_readable(error.messages)).split())
        raise ConfigError(f"{path}: {text}") from None


def _readable(messages: Any) -> Any:
    """marshmallow's errors without the steps of its own that a reader of the file never wrote."""
    if isinstance(messages, Mapping):
        if set(messages) in ({"value"}, {"key"}, {"_schema"}):
            return _readable(next(iter(messages.values())))
        unknown = {key: value for key, value in messages.items() if _is_unknown(value)}
        # A key that was meant is not missing: it is misspelt.
        meant = {value[0].meant for value in unknown.values()}
        others = {
            key: _readable(value)
            for key, value in messages.items()
            if key not in unknown and not (key in meant and value == [_MISSING])
        }
        return unknown | others
    return messages


def _is_unknown(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], UnknownKey)


def _server(path: Path, content: dict[str, Any]) -> ServerConfig:
    found = _validated(path, ServerFile(), content)
    values: dict[str, Any] = {**found.get("logging", {}), **found.get("api", {})}
    results = found.get("results", {})
    if results is None:
        results = {"url": None}
    if "url" in results:
        # "null" as text is what a URL from the environment says for none.
        values["results_url"] = None if results["url"] == "null" else results["url"]
    values |= {key: results[key] for key in ("retention", "fsync") if key in results}
    streams = found.get("streams", {})
    values |= {key: streams[key] for key in ("dead_retention",) if key in streams}
    return ServerConfig(base=path.resolve().parent, broker_url=streams.get("connection_str"), **values)


def _app(path: Path, content: dict[str, Any]) -> AppConfig:
    found = _validated(path, AppFile(), content)
    events = {}
    for name, entry in found["events"].items():
        read, write = entry.get("read_stream"), entry.get("write_stream")
        events[name] = EventConfig(
            name=name,
            type=entry["type"],
            read_stream=(read["name"], read["consumer_group"]) if read else None,
            write_stream=write["name"] if write else None,
            max_length=write.get("max_length") if write else None,
            settings=StreamSettings(**entry.get("config", {}).get("stream", {})),
        )
    return AppConfig(path, found["app"]["name"], found["app"]["version"], found.get("env", {}), events)
