"""The options of ``@app.task``, and what a worker's settings are made of them. Pure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypedDict, cast

import msgspec

from taskstream.errors import ConfigError, TimeLimitExceeded
from taskstream.handler import Settings
from taskstream.limits import Limit, parse_rate
from taskstream.message import Delivery

Binder = Callable[[Delivery], Mapping[str, object]]

DEFAULT_RETRIES = 3
"""``max_retries`` unless given, of what ``autoretry_for`` and ``self.retry()`` ask for."""


IN_CELERY = {
    "soft_time_limit": "timeout here",
    "time_limit": "hard_timeout here",
    "default_retry_delay": "retry_backoff here",
    "retry_kwargs": "max_retries here",
    "reject_on_worker_lost": "max_deliveries here",
    "acks_late": "always so here",
    "typing": "always so here",
}
"""Options of a task in Celery that are something else here: what to say to who gives one."""


class TaskOptions(TypedDict, total=False):
    """The options of ``@app.task`` as they are given, but for ``bind``, which changes the function's type."""

    name: str | None
    queue: str | None
    max_retries: int | None
    retry_backoff: float
    retry_backoff_max: float
    retry_jitter: bool
    autoretry_for: tuple[type[BaseException], ...]
    timeout: float | None
    hard_timeout: float | None
    max_deliveries: int
    ignore_result: bool
    unique: bool
    track_started: bool
    rate_limit: float | str | None
    max_concurrency: int | None
    limit_key: Callable[..., object] | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``@app.task``. Times in seconds."""

    name: str | None = None
    queue: str | None = None
    max_retries: int | None = None
    retry_backoff: float = 1.0
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True
    autoretry_for: tuple[type[BaseException], ...] = ()
    timeout: float | None = None
    hard_timeout: float | None = None
    max_deliveries: int = 3
    ignore_result: bool = False
    unique: bool = False
    track_started: bool = False
    bind: bool = False
    rate_limit: float | str | None = None
    max_concurrency: int | None = None
    limit_key: Callable[..., object] | None = None

    def settings(self, task: str) -> Settings:
        """The handler's settings. Raises ConfigError naming ``task`` and the option that cannot be used."""

        def check(option: str, fits: bool, wanted: str) -> None:
            if not fits:
                raise ConfigError(f"task {task}: {option}={getattr(self, option)!r} cannot be used: give {wanted}")

        retries = self.max_retries
        check("track_started", isinstance(self.track_started, bool), "True or False")
        check("bind", isinstance(self.bind, bool), "True or False")
        check("max_retries", retries is None or _whole(retries, 0), "a whole number from 0 on")
        check("retry_backoff", _seconds(self.retry_backoff, least=0.0), "seconds from 0 on")
        check("retry_backoff_max", _seconds(self.retry_backoff_max, least=0.0), "seconds from 0 on")
        check("retry_jitter", isinstance(self.retry_jitter, bool), "True or False")
        check("timeout", self.timeout is None or _seconds(self.timeout, least=0.001), "seconds from 0.001 on, or None")
        hard = self.hard_timeout
        check("hard_timeout", hard is None or _seconds(hard, least=0.001), "seconds from 0.001 on, or None")
        if self.timeout is not None and hard is not None:
            check("hard_timeout", hard > self.timeout, f"more than timeout={self.timeout!r}, which is to come first")
        check("max_deliveries", _whole(self.max_deliveries, 1), "a whole number from 1 on")
        check("ignore_result", isinstance(self.ignore_result, bool), "True or False")
        check("unique", isinstance(self.unique, bool), "True or False")
        check(
            "autoretry_for",
            isinstance(self.autoretry_for, (tuple, list)) and all(map(_retriable, self.autoretry_for)),
            "a tuple of Exception classes",
        )
        return Settings(
            timeout=self.timeout,
            hard_timeout=self.hard_timeout,
            max_retries=DEFAULT_RETRIES if retries is None else retries,
            max_deliveries=self.max_deliveries,
            retry_backoff=self.retry_backoff,
            retry_backoff_max=self.retry_backoff_max,
            retry_jitter=self.retry_jitter,
            retry_for=tuple(self.autoretry_for),
            ignore_result=self.ignore_result,
        )

    def limit(self, task: str, function: Callable[..., Any], bind: Binder) -> Limit | None:
        """The limit of a task's runs, None without any. ``bind(delivery)``: the arguments of a message by their names.

        Raises ConfigError naming ``task`` and the option that cannot be used.
        """

        def refuse(option: str, wanted: object) -> NoReturn:
            raise ConfigError(f"task {task}: {option}={name_of(getattr(self, option))} cannot be used: {wanted}")

        most, key = self.max_concurrency, self.limit_key
        if most is not None and not _whole(most, 1):
            refuse("max_concurrency", "give a whole number from 1 on, or None")
        apart = None
        if self.rate_limit is not None:
            try:
                apart = parse_rate(self.rate_limit)
            except ValueError as error:
                refuse("rate_limit", f"give {error}")
        if key is None:
            return None if apart is None and most is None else Limit(apart, most)
        if apart is None and most is None:
            refuse("limit_key", "it says by what rate_limit or max_concurrency are counted, and neither is given")
        if not callable(key):
            refuse("limit_key", "give a function of the task's arguments")
        try:
            taken, there = inspect.signature(key).parameters, inspect.signature(function).parameters
        except ValueError:
            refuse("limit_key", "its parameters cannot be read: give a lambda")
        every = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        names = [name for name, one in taken.items() if one.kind is not one.VAR_KEYWORD]
        for name in names:
            if name not in there:
                refuse("limit_key", f"the task has no argument {name!r}, only {', '.join(there) or 'none at all'}")
            if taken[name].kind in (taken[name].POSITIONAL_ONLY, taken[name].VAR_POSITIONAL):
                refuse("limit_key", f"it has to take {name!r} by its name")

        def of(delivery: Delivery) -> object:
            arguments = bind(delivery)
            return key(**(arguments if every else {name: arguments[name] for name in names}))

        return Limit(apart, most, of)


def options_of(where: str, given: Mapping[str, Any]) -> Options:
    """The options as they were given. Raises ConfigError naming ``where`` for one there is not."""
    unknown = sorted(set(given) - set(Options.__struct_fields__))
    if unknown:
        named = ", ".join(f"{name} ({IN_CELERY[name]})" if name in IN_CELERY else name for name in unknown)
        raise ConfigError(f"{where} has no option {named}: there are {', '.join(Options.__struct_fields__)}")
    return Options(**given)


def name_of(value: object) -> str:
    """What errors call a value that may be a function: by its name, without the address that ``repr`` tells."""
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else repr(value)


def _whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _seconds(value: object, least: float) -> bool:
    return type(value) in (int, float) and least <= cast(float, value) < math.inf


def _retriable(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, (Exception, TimeLimitExceeded))
