"""Runs one event of an event app in a test: its steps and hooks, without web server, worker or broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from taskstream.app.context import EventContext, PostprocessHook, PreprocessHook, StreamInfo
from taskstream.dataobjects import dump_json, validator_for
from taskstream.errors import ConfigError, ValidationError
from taskstream.events import load
from taskstream.events.chain import Chain, Function, resolve
from taskstream.events.module import EventModule, load_module
from taskstream.message import new_id
from taskstream.testing.running import run_async


@dataclass
class Executed:
    """What an event did. ``value`` is what its last step returned, which a write_stream would get; None: nothing.

    ``answer`` is the same after ``__postprocess__``, with ``status`` and ``headers``; where ``__preprocess__`` set a
    status, what that returned.
    """

    value: Any
    answer: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def execute_event(
    event: ModuleType | str,
    payload: Any = None,
    *,
    config_files: str | Path | Iterable[str | Path] | None = None,
    env: Mapping[str, Any] | None = None,
    query_args: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    track_ids: Mapping[str, Any] | None = None,
) -> Executed:
    """Run the event of a handler module, or the event of that name in ``config_files``.

    ``payload`` is the value that the first step takes, or the JSON it comes as: text, bytes, or a dict or list where
    the event takes a dataobject. JSON is checked as a request's is. ``env`` is the app's, put over that of the
    configuration; ``query_args`` are values of their declared types; ``headers`` are for ``__preprocess__``.
    ``__init_event__`` runs before, each time.

    Raises ValidationError for a payload that does not fit, ConfigError for a module or name that cannot be used, and
    whatever the steps raise.
    """
    module, context = _module_of(event) if isinstance(event, ModuleType) else _event_of(event, config_files)
    if env is not None:
        context.env = {**context.env, **env}
    context = context.follow(track_ids or {}, context.stream)
    arguments = _arguments(module, query_args or {})
    value, raw = _payload(module, payload)
    if module.init is not None:
        _call(module.init, (context,), {})
    if module.preprocess is not None:
        asked = PreprocessHook(headers or {}, arguments, raw)
        value = _call(module.preprocess, (value, context, asked), arguments)
        if asked.status is not None:
            return Executed(None, value, asked.status)
    value = Chain(module.steps, run_async).run(value, context, arguments)
    hook = PostprocessHook()
    answer = value
    if module.postprocess is not None:
        answer = _call(module.postprocess, (value, context, hook), arguments)
    return Executed(value, answer, hook.status, dict(hook.headers))


def _module_of(event: ModuleType) -> tuple[EventModule, EventContext]:
    package, _, name = event.__name__.rpartition(".")
    if not package:
        raise ConfigError(f"module {event.__name__} is in no package, as the module of an event is")
    shown = name.replace("_", "-")
    module = load_module(package, name, shown, is_request=True)
    return module, EventContext(package.rpartition(".")[2].replace("_", "-"), "0.0", shown)


def _event_of(name: str, config_files: str | Path | Iterable[str | Path] | None) -> tuple[EventModule, EventContext]:
    if config_files is None:
        raise ConfigError(f"event {name!r}: give its module, or config_files= that have it")
    loaded = load(config_files, run_async)
    for one in loaded.streams:
        if name in (one.name, one.label):
            told = StreamInfo(one.stream, one.group, new_id(), 1)
            return one.module, EventContext(one.app.name, one.app.version, one.name, one.app.env, stream=told)
    for asked in loaded.requests:
        if name in (asked.name, asked.label):
            return asked.module, EventContext(asked.app.name, asked.app.version, asked.name, asked.app.env)
    known = ", ".join([*(one.name for one in loaded.requests), *(one.name for one in loaded.streams)])
    raise ConfigError(f"there is no event {name!r}, only {known}")


def _payload(module: EventModule, payload: Any) -> tuple[Any, bytes | None]:
    """The value for the first function, and as it would have come."""
    validator = validator_for(module.payload_type) if module.payload_type is not Any else None
    if isinstance(payload, bytes) or (isinstance(payload, str) and module.payload_type is not str):
        raw = payload.encode() if isinstance(payload, str) else payload
    elif (
        isinstance(payload, (dict, list))
        and isinstance(module.payload_type, type)
        and not isinstance(payload, module.payload_type)
    ):
        raw = dump_json(payload)
    else:
        return payload, None
    if validator is None:
        raise ValidationError(f"{module.where}: its first step takes anything, so give a value instead of JSON")
    return validator.load_json(raw), raw


def _arguments(module: EventModule, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every declared query argument, None where it is not given."""
    unknown = given.keys() - module.api.query_args.keys()
    if unknown:
        text = "there is no such query argument"
        said = ", ".join(sorted(unknown))
        raise ValidationError(f"{module.where}: {said}: {text}", {name: [text] for name in unknown})
    return {name: given.get(name) for name in module.api.query_args}


def _call(function: Function, values: tuple[Any, ...], arguments: Mapping[str, Any]) -> Any:
    return resolve(function.call(*values[: function.takes], **function.bind(arguments)), run_async)
