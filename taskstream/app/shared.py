"""``@shared_task``: tasks of modules that know no app. Each is a task of every app; it stands for the current one's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from taskstream.app import registry
from taskstream.app.options import Options, TaskOptions, options_of
from taskstream.app.registry import BoundTaskDecorator, TaskDecorator
from taskstream.app.task import Task, check_function
from taskstream.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

_OWN = frozenset({"name", "queue", "settings"})
"""What a task has beside what its class has."""


class SharedTask:
    """Stands for the task that the current app has of one function.

    Calling it runs the function, with no app needed unless it was registered with ``bind=True``.
    """

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        """Raises ConfigError for what is no function."""
        check_function(function, options.name)
        self.function = function
        self.options = options
        functools.update_wrapper(self, function, updated=())

    @property
    def task(self) -> Task[..., Any, Any]:
        """The current app's task. Raises ConfigError where no app was made yet."""
        app = registry.current_app()
        if app is None:
            raise ConfigError(
                f"shared task {self.__name__}: there is no app yet whose task it could be: "
                "make one first, or import the module that does"
            )
        name = self.options.name or f"{app.name}.{self.function.__name__}"
        return app.tasks[name]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.task(*args, **kwargs) if self.options.bind else self.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Only what a task has: whoever looks for anything else is not to hear that an app is missing.
        if name.startswith("_") or not (name in _OWN or hasattr(Task, name)):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.task, name)

    def __repr__(self) -> str:
        return f"<SharedTask {self.__name__}>"

    __name__: str


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R, R]: ...


@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundTaskDecorator: ...


@overload
def shared_task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> TaskDecorator: ...


def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """``@app.task`` without an app: for modules that are used by several, or imported before there is one.

    Every app of the process has the task, those made later too, under a name and a queue of its own. What is made of
    it (``delay()`` and all the rest) is the current app's: the one that a worker was started with, else the one made
    last, unless ``app.set_current()`` chose.

    Raises ConfigError as ``@app.task`` does.
    """
    chosen = options_of("@shared_task", options)

    def register(function: Callable[..., Any]) -> SharedTask:
        shared = SharedTask(function, chosen)
        registry.share(shared)
        return shared

    return register if function is None else register(function)
