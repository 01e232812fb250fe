"""What tasks there are: registering functions with an app, shared ones with every app, and which app is current.

Sends nothing and connects to nothing.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import tzinfo
from types import MappingProxyType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from taskstream.app.options import Options, TaskOptions, name_of, options_of
from taskstream.app.periodic import PeriodicDecorator, Plan, plan
from taskstream.app.task import Host, Task
from taskstream.errors import ConfigError
from taskstream.schedule import Schedule

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What ``@app.task(…)`` gives: makes a task of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class BoundTaskDecorator(Protocol):
    """What ``@app.task(bind=True, …)`` gives: the function's first parameter is the task, no caller gives it."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R, R]: ...


class Registry:
    """The tasks of one app; the other half of ``Taskstream``, which is its ``Host``. Thread-safe."""

    name: str

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any, Any]] = {}
        self._plans: list[Plan] = []
        self._registering = threading.RLock()

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, R]: ...

    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundTaskDecorator: ...

    @overload
    def task(self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> TaskDecorator: ...

    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Register a function as a task: ``@app.task``, ``@app.task(queue=…)`` or ``app.task(function)``.

        ``bind``: the function's first parameter is the task itself, whose ``request``, ``retry`` and ``progress`` are
        about the run. ``name`` is ``app.function`` unless given; ``queue`` the app's name. ``autoretry_for`` lists the
        exceptions after which a call is tried again, ``max_retries`` times at most (3 unless given), waiting
        ``retry_backoff`` s before the first retry, twice that before the second, at most ``retry_backoff_max`` s;
        with ``retry_jitter`` anywhere between 0 and that. ``timeout`` (s) ends a call that takes longer,
        ``hard_timeout`` (s) the worker process of one that does so nevertheless.
        ``max_deliveries``: how many worker processes may die under a call before it becomes a dead letter.
        ``ignore_result`` keeps no value. ``unique``: a call with the arguments of one that waits or runs sends nothing
        and returns the handle of that one. ``rate_limit`` (``"10/s"``, ``"100/m"``, ``"5/h"``, or a number per second)
        and ``max_concurrency`` hold over all workers; with ``limit_key``, a function of some of the task's arguments by
        their names, for each value of that by itself.
        ``track_started``: a call that runs says so (STARTED), at the price of a round trip to Redis; without it, it is
        PENDING until it has ended.

        Raises ConfigError for an option that cannot be used and for a second task of the same name.
        """
        chosen = options_of("@app.task", options)

        def register(function: Callable[..., Any]) -> Task[..., Any, Any]:
            return self.register(function, chosen)

        return register if function is None else register(function)

    def register(self, function: Callable[..., Any], options: Options) -> Task[..., Any, Any]:
        """Make a task of ``function``. Raises ConfigError."""
        task: Task[..., Any, Any] = Task(cast(Host, self), function, options)
        with self._registering:
            if task.name in self._tasks:
                raise ConfigError(f"app {self.name} has two tasks named {task.name}: give one another name=")
            self._tasks[task.name] = task
        return task

    def periodic(
        self,
        cron: str | None = None,
        /,
        *,
        every: float | str | None = None,
        tz: str | tzinfo | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> PeriodicDecorator:
        """Launch a task at fixed times, once each however many workers there are: ``@app.periodic("*/5 * * * *")``.

        Put it above ``@app.task``, or on a plain function; several on one task are several schedules. ``cron`` is a
        cron line (minute hour day month weekday) on the wall clock of ``tz``, UTC unless given; or ``every`` (s, or
        text such as ``"1h"``) is due at each multiple of that since the epoch. ``args`` and ``kwargs`` are what it is
        called with. Of ticks that were missed while no worker ran, the last one is launched.

        Raises ConfigError for times that are never due and for arguments that do not make a call.
        """
        if callable(cron):  # @app.periodic without parentheses: taken as a line, it would make no schedule and no error
            raise ConfigError(
                f'@app.periodic of {name_of(cron)}: say when: @app.periodic("*/5 * * * *") or @app.periodic(every=30)'
            )

        def make(task: Any) -> Any:
            found = task if isinstance(task, Task) else self.register(task, Options())
            if self._tasks.get(found.name) is not found:
                raise ConfigError(f"@app.periodic of {found.name}: it is a task of another app than {self.name}")
            self._plans.append(plan(found, cron, every, tz, args, kwargs))
            return found

        return cast(PeriodicDecorator, make)

    def schedules(self) -> list[Schedule]:
        """When which tasks are to be launched. Raises ConfigError for arguments that cannot be sent."""
        found = {one.name: one for one in (made.schedule(cast(Host, self).send) for made in self._plans)}
        return list(found.values())

    @property
    def tasks(self) -> Mapping[str, Task[..., Any, Any]]:
        """Every registered task by its name."""
        return MappingProxyType(self._tasks)

    def queues(self) -> Sequence[str]:
        """Every queue the tasks go to, sorted."""
        return sorted({task.queue for task in list(self._tasks.values())})

    def set_current(self) -> None:
        """Let shared tasks be this app's from now on, in the whole process.

        Making an app does that, and so does loading one with ``-A``.
        """
        global _current
        _current = weakref.ref(self)


class Shared(Protocol):
    """A function that every app has as a task."""

    function: Callable[..., Any]
    options: Options


_numbers = itertools.count()
_apps: weakref.WeakValueDictionary[int, Registry] = weakref.WeakValueDictionary()
_shared: weakref.WeakValueDictionary[int, Shared] = weakref.WeakValueDictionary()
# Both in the order they were made; weak, so that what a test makes ends with it.
_current: weakref.ref[Registry] | None = None


def enlist(app: Registry) -> None:
    """A new app: it gets every shared task there is, and is the current one. Raises ConfigError."""
    for one in list(_shared.values()):
        app.register(one.function, one.options)
    _apps[next(_numbers)] = app
    app.set_current()


def share(shared: Shared) -> None:
    """A new shared task: every app gets it, those made later too. Raises ConfigError."""
    for app in apps():
        app.register(shared.function, shared.options)
    _shared[next(_numbers)] = shared


def apps() -> list[Registry]:
    """Every app of this process, in the order they were made."""
    return list(_apps.values())


def current_app() -> Registry | None:
    """The app whose tasks shared ones are now: the one loaded with ``-A``, else the one made last; None without any."""
    found = None if _current is None else _current()
    return found or next(reversed(apps()), None)
