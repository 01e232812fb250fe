"""The step chain of an event: which step takes a value, and running ``def`` and ``async def`` steps in turn.

Everything about signatures is found out once, when the event is loaded. Steps that follow one another as
``async def`` run inside one coroutine, because every hand-over to the event loop costs more than a step.
"""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import time
import types
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskstream.app.context import EventContext
from taskstream.errors import ConfigError
from taskstream.inline import as_plain

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end from outside its event loop and returns what it returns."""

Fits = Callable[[Any], bool]
_UNION = (typing.Union, types.UnionType)


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a handler module and what its signature says.

    ``takes`` is how many positional arguments it may be given; ``first`` the annotation of the first;
    ``keywords`` are the other names it may be given (None: any), ``optional`` those of them with a default.
    """

    name: str
    call: Callable[..., Any]
    is_async: bool
    takes: int
    first: Any
    keywords: frozenset[str] | None
    optional: frozenset[str]

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``values`` that the function takes; a None leaves a default of its own alone."""
        return {
            name: value
            for name, value in values.items()
            if (self.keywords is None or name in self.keywords) and not (value is None and name in self.optional)
        }


def inspect_function(where: str, name: str, found: Any, most: int) -> Function:
    """What is known of ``found``, called with at most ``most`` positional arguments. Raises ConfigError."""
    if not callable(found):
        raise ConfigError(f"{where}: {name} is not a function but {type(found).__name__}")
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        raise ConfigError(f"{where}: {name} is a generator; return the value instead of yielding it")
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: the signature of {name} cannot be read: {error}") from None
    call = as_plain(found)
    kinds = inspect.Parameter
    positional = [part for part in parameters if part.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    takes = most if any(part.kind is kinds.VAR_POSITIONAL for part in parameters) else min(len(positional), most)
    named = positional[most:] + [part for part in parameters if part.kind is kinds.KEYWORD_ONLY]
    any_name = any(part.kind is kinds.VAR_KEYWORD for part in parameters)
    return Function(
        name=name,
        call=call,
        is_async=inspect.iscoroutinefunction(call),
        takes=takes,
        first=_resolved(where, name, found, positional[0].annotation) if positional else Any,
        keywords=None if any_name else frozenset(part.name for part in named),
        optional=frozenset(part.name for part in named if part.default is not kinds.empty),
    )


def _resolved(where: str, name: str, found: Any, annotation: Any) -> Any:
    """The first parameter's annotation; only it, because others may exist for type checkers only."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(inspect.unwrap(found), "__globals__", {}))
    except Exception as error:
        raise ConfigError(
            f"{where}: the type {annotation!r} of the first parameter of {name} cannot be resolved: {error}"
        ) from None


def required_keywords(function: Function) -> frozenset[str]:
    """Names that the function must be given besides its positional arguments."""
    return (function.keywords or frozenset()) - function.optional


def members(annotation: Any) -> list[Any]:
    """The types of a Union or Optional, or the one type; aliases resolved, None as NoneType."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            break
    if typing.get_origin(annotation) in _UNION:
        return [inner for arg in typing.get_args(annotation) for inner in members(arg)]
    return [type(None) if annotation is None else annotation]


def matcher(annotation: Any) -> Fits:
    """A test whether a value's type fits ``annotation``; containers are not looked into."""
    classes: list[type[Any]] = []
    choices: list[Any] = []
    found = members(annotation)
    if Any in found or object in found:
        return lambda value: True
    for member in found:
        origin = typing.get_origin(member)
        if origin is typing.Literal:
            choices += typing.get_args(member)
        elif isinstance(origin or member, type):
            classes.append(origin or member)
        else:  # a TypeVar and the like say nothing about the type
            return lambda value: True
    if float in classes:
        classes.append(int)
    wanted = tuple(classes)
    if int in classes and bool not in classes:
        # A bool is an int to Python, but not to somebody who wrote int.
        return lambda value: isinstance(value, wanted) and not isinstance(value, bool)
    if choices:
        return lambda value: isinstance(value, wanted) or value in choices
    return lambda value: isinstance(value, wanted)


def resolve(value: Any, run_async: RunAsync) -> Any:
    """The value itself, or what a coroutine that a plain function returned gives."""
    return run_async(value) if isinstance(value, collections.abc.Coroutine) else value


class Step:
    """One function of ``__steps__``."""

    __slots__ = ("call", "fits", "function", "is_async", "with_context")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.call = function.call
        self.is_async = function.is_async
        self.with_context = function.takes > 1
        self.fits = matcher(function.first)

    def begin(self, value: Any, context: EventContext, arguments: Mapping[str, Any] | None) -> Any:
        """Call it with ``value`` and, if there are any, the request's query arguments."""
        keywords = self.function.bind(arguments) if arguments else {}
        return self.call(value, context, **keywords) if self.with_context else self.call(value, **keywords)


class Chain:
    """Runs the steps that fit, each on what the one before returned; None ends it.

    ``delay`` (s) is waited between two steps that run.
    """

    def __init__(self, steps: Sequence[Step], run_async: RunAsync, delay: float = 0.0) -> None:
        self.steps = list(steps)
        self._run_async = run_async
        self._delay = delay
        self._groups: list[tuple[bool, list[Step]]] = []
        for step in steps:
            if self._groups and self._groups[-1][0] == step.is_async:
                self._groups[-1][1].append(step)
            else:
                self._groups.append((step.is_async, [step]))

    def run(self, value: Any, context: EventContext, arguments: Mapping[str, Any] | None = None) -> Any:
        """What the last step that ran returned (``value`` if none fits, None where one returned None).

        ``arguments`` are the request's query arguments, for the first step that runs.
        """
        ran = False
        for is_async, steps in self._groups:
            if is_async:
                if ran or any(step.fits(value) for step in steps):
                    value, ran = self._run_async(self._run_awaiting(steps, value, context, arguments, ran))
            else:
                value, ran = self._run_plain(steps, value, context, arguments, ran)
            if ran and value is None:
                return None
        return value

    def _run_plain(
        self, steps: list[Step], value: Any, context: EventContext, arguments: Mapping[str, Any] | None, ran: bool
    ) -> tuple[Any, bool]:
        for step in steps:
            if not step.fits(value):
                continue
            if ran and self._delay:
                time.sleep(self._delay)  # cooperative in a worker
            value = resolve(step.begin(value, context, None if ran else arguments), self._run_async)
            ran = True
            if value is None:
                break
        return value, ran

    async def _run_awaiting(
        self, steps: list[Step], value: Any, context: EventContext, arguments: Mapping[str, Any] | None, ran: bool
    ) -> tuple[Any, bool]:
        for step in steps:
            if not step.fits(value):
                continue
            if ran and self._delay:
                await asyncio.sleep(self._delay)
            value = await step.begin(value, context, None if ran else arguments)
            ran = True
            if value is None:
                break
        return value, ran
