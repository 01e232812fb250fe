"""What ``@app.periodic`` says, and the schedules that a worker makes of it. Sends nothing before a tick is due."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import tzinfo
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from taskstream.app import sending
from taskstream.app.task import Task
from taskstream.broker import Envelope
from taskstream.errors import ConfigError, ValidationError
from taskstream.schedule import Schedule, Times, schedule_name, tick_id, times_of

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class PeriodicDecorator(Protocol):
    """What ``@app.periodic(…)`` gives: makes a task periodic, and a function a periodic task."""

    @overload
    def __call__(self, task: Task[P, R, C], /) -> Task[P, R, C]: ...  # type: ignore[overload-overlap]  # a task is a callable

    @overload
    def __call__(self, task: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, task: Callable[P, R], /) -> Task[P, R, R]: ...


class Plan(NamedTuple):
    """One ``@app.periodic`` of one task. ``said`` is its times as text."""

    task: Task[..., Any, Any]
    times: Times
    said: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"@app.periodic of {self.task.name}"

    def check(self) -> None:
        """Raise ConfigError if its arguments do not make a call."""
        if not isinstance(self.args, list | tuple) or not isinstance(self.kwargs, Mapping):
            raise ConfigError(f"{self.where}: args= is a list or tuple of arguments, kwargs= a mapping of their names")
        try:
            self.task.signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            raise ConfigError(f"{self.where}: {error}: give what it is called with in args= or kwargs=") from None

    def schedule(self, send: Callable[[Envelope], str]) -> Schedule:
        """What a worker goes by. Raises ConfigError for arguments that are not of the annotated types."""
        task = self.task
        try:
            body = task.message(self.args, self.kwargs).body
        except ValidationError as error:
            raise ConfigError(f"{self.where}: {error}") from None
        name = schedule_name(task.name, self.said, body)

        def launch(tick_ms: int) -> str:
            return send(sending.envelope(task, self.args, self.kwargs, {"task_id": tick_id(name, tick_ms)}))

        return Schedule(name, task.name, task.queue, self.times, launch)


def plan(
    task: Task[..., Any, Any],
    cron: str | None,
    every: float | str | None,
    tz: str | tzinfo | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
) -> Plan:
    """Raises ConfigError for what can never be launched."""
    times, said = times_of(f"@app.periodic of {task.name}", cron, every, tz)
    made = Plan(task, times, said, args, {} if kwargs is None else kwargs)
    made.check()
    return made
