"""Which coroutine functions are run in place, and that they then do what they did."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator

import pytest

from taskstream.inline import as_plain, never_waits

var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)


async def adds(a: int, b: int = 1) -> int:
    return a + b


async def fails() -> None:
    raise KeyError("k")


async def awaits() -> None:
    await asyncio.sleep(0)


async def awaits_argument(other: asyncio.Future[int]) -> int:
    return await other


async def iterates(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]


async def loops(items: AsyncIterator[int]) -> None:
    async for _ in items:
        pass


async def enters(thing: asyncio.Lock) -> None:
    async with thing:
        pass


async def generates() -> AsyncIterator[int]:
    yield 1


async def starts_a_task() -> object:
    return asyncio.get_running_loop()


async def starts_a_task_inside() -> object:
    def start() -> object:
        return asyncio.ensure_future(awaits())

    return start


def plain(a: int) -> int:
    return a


def decorated(function):  # type: ignore[no-untyped-def]
    @functools.wraps(function)
    async def wrapper(*args):  # type: ignore[no-untyped-def]
        return await function(*args)

    return wrapper


class Steps:
    async def method(self, a: int) -> int:
        return a


@pytest.mark.parametrize("function", [adds, fails, Steps().method])
def test_what_cannot_suspend_is_run_in_place(function) -> None:  # type: ignore[no-untyped-def]
    assert never_waits(function)


@pytest.mark.parametrize(
    "function",
    [
        *(awaits, awaits_argument, iterates, loops, enters, generates, starts_a_task, starts_a_task_inside, plain),
        *(decorated(adds), functools.partial(adds, 1), len),
    ],
)
def test_what_may_suspend_or_needs_the_loop_is_left_alone(function) -> None:  # type: ignore[no-untyped-def]
    assert not never_waits(function)
    assert as_plain(function) is function


def test_values_arguments_and_errors_come_through() -> None:
    assert as_plain(adds)(2, b=3) == 5
    with pytest.raises(KeyError, match="k"):
        as_plain(fails)()


def test_it_shares_the_callers_context() -> None:
    async def sets() -> None:
        var.set(7)

    contextvars.copy_context().run(as_plain(sets))
    assert var.get() == 0
    context = contextvars.copy_context()
    context.run(as_plain(sets))
    assert context[var] == 7
