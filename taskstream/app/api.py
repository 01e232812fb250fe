"""``event_api``: what an event's author says about its payload, query arguments and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskstream.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Described:
    """A type and what its value means."""

    datatype: Any
    description: str = ""


@dataclass(frozen=True, slots=True)
class EventApi:
    """One event's ``__api__``. ``responses`` goes by HTTP status."""

    payload: Described | None = None
    query_args: Mapping[str, Described] = field(default_factory=dict)
    responses: Mapping[int, Described] = field(default_factory=dict)
    title: str | None = None
    summary: str | None = None
    description: str | None = None


def event_api(
    *,
    payload: Any = None,
    query_args: Sequence[Any] | None = None,
    responses: Mapping[int, Any] | None = None,
    title: str | None = None,
    summary: str | None = None,
    description: str | None = None,
) -> EventApi:
    """What to check requests against and to say in the OpenAPI document.

    ``payload``: ``Type`` or ``(Type, "text")``. ``query_args``: a list of ``"name"`` (optional text),
    ``("name", Type)`` or ``("name", Type, "text")``; required unless the type is Optional. ``responses``: HTTP
    status → ``Type`` or ``(Type, "text")``. The texts default to the module's docstring. Raises ConfigError.
    """
    arguments: dict[str, Described] = {}
    for argument in query_args or ():
        name, described = _query_argument(argument)
        if name in arguments:
            raise ConfigError(f"event_api: query argument {name!r} is given twice")
        arguments[name] = described
    answers = {}
    for status, answer in (responses or {}).items():
        if type(status) is not int or not 200 <= status <= 599:
            raise ConfigError(f"event_api: {status!r} in responses is no HTTP status from 200 to 599")
        answers[status] = _described("responses", answer)
    return EventApi(
        None if payload is None else _described("payload", payload), arguments, answers, title, summary, description
    )


def _described(where: str, given: Any) -> Described:
    if not isinstance(given, tuple):
        return Described(given)
    if len(given) == 2 and isinstance(given[1], str):
        return Described(*given)
    raise ConfigError(f'event_api: {where} must be a type or (type, "text"), not {given!r}')


def _query_argument(given: Any) -> tuple[str, Described]:
    parts = (given, str | None) if isinstance(given, str) else given
    if isinstance(parts, tuple | list) and 2 <= len(parts) <= 3 and all(isinstance(part, str) for part in parts[::2]):
        name, datatype, *text = parts
        if name.isidentifier():
            return name, Described(datatype, *text)
    raise ConfigError(f'event_api: query_args must hold "name", (name, type) or (name, type, "text"), not {given!r}')
