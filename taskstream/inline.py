"""Runs an ``async def`` that never waits where its caller is, instead of on the event loop.

Handing a coroutine to the loop's thread and back costs some fifty times what a small step does. One whose code
holds no ``await``, ``async for`` or ``async with`` cannot suspend, so nothing is gained there. Functions that
name the event loop's machinery are left to the loop, because they need it running around them.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

_SUSPENDING = frozenset({"GET_AWAITABLE", "SEND", "YIELD_VALUE", "GET_AITER", "GET_ANEXT", "BEFORE_ASYNC_WITH"})
_LOOP_NAMES = frozenset(
    {
        *("asyncio", "anyio", "trio", "uvloop", "get_running_loop", "get_event_loop", "create_task"),
        *("ensure_future", "current_task", "run_in_executor", "call_soon", "call_later", "TaskGroup"),
    }
)


def never_waits(function: Callable[..., Any]) -> bool:
    """Whether ``function`` is an ``async def`` that runs to its end without ever giving way to an event loop."""
    if not inspect.iscoroutinefunction(function):
        return False
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType):
        return False
    if any(one.opname in _SUSPENDING for one in dis.get_instructions(function.__code__)):
        return False
    return not any(_LOOP_NAMES.intersection(code.co_names) for code in _with_nested(function.__code__))


def as_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function in place of an ``async def`` for which ``never_waits`` holds; any other as it is."""
    if not never_waits(function):
        return function

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return _finish(function(*args, **kwargs))

    # inspect.iscoroutinefunction looks through functools.partial, not through __wrapped__: this is a plain one.
    return plain


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waited although its code holds no await")


def _with_nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_nested(constant)
