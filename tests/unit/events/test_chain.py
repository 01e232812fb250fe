"""The step chain: which steps run on what, how ``def`` and ``async def`` mix, what ends it."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NewType, Optional, Union

import pytest

from taskstream.app.context import EventContext
from taskstream.dataobjects import dataobject
from taskstream.errors import ConfigError
from taskstream.events.chain import Chain, RunAsync, Step, inspect_function, matcher, members

CONTEXT = EventContext("app", "1.0", "event")
Name = NewType("Name", str)


@dataobject
class A:
    x: int


@dataobject
class B:
    x: int


def chain_of(*functions: Callable[..., Any], run: RunAsync, delay: float = 0.0) -> Chain:
    steps = [Step(inspect_function("module", found.__name__, found, 2)) for found in functions]
    return Chain(steps, run, delay)


@pytest.mark.parametrize(
    ("annotation", "fitting", "unfitting"),
    [
        (int, [1], [True, "1", 1.0, None]),
        (float, [1.5, 2], [True, "1"]),
        (bool, [True], [1]),
        (Union[int, bool], [1, True], ["1"]),  # noqa: UP007
        (str, ["a"], [b"a", 1]),
        (Name, ["a"], [1]),
        (None, [None], [0]),
        (Optional[A], [A(1), None], [B(1), {}]),  # noqa: UP045
        (A | B, [A(1), B(1)], [None, 1]),
        (list[int], [[1], ["a"]], [(1,)]),
        (dict[str, int], [{}], [[]]),
        (Sequence[int], [[1], (1,)], [1]),
        (Literal["a", 1], ["a", 1], ["b", 2]),
        (dt.date, [dt.date(2020, 1, 1)], ["2020-01-01"]),
        (Any, [1, None, A(1)], []),
        (object, [1, None, A(1)], []),
    ],
)
def test_a_step_takes_what_its_annotation_says(annotation: Any, fitting: list[Any], unfitting: list[Any]) -> None:
    fits = matcher(annotation)
    assert [fits(value) for value in fitting] == [True] * len(fitting)
    assert [fits(value) for value in unfitting] == [False] * len(unfitting)


def test_members_of_a_type() -> None:
    assert members(Optional[A]) == [A, type(None)]  # noqa: UP045
    assert members(A | (B | None)) == [A, B, type(None)]
    assert members(Name) == [str]


def test_each_step_gets_what_the_one_before_returned(run_async: RunAsync) -> None:
    def first(value: int, context: EventContext) -> str:
        assert context is CONTEXT
        return str(value + 1)

    def second(value: str) -> list[str]:
        return [value]

    assert chain_of(first, second, run=run_async).run(1, CONTEXT) == ["2"]


def test_steps_whose_type_does_not_fit_are_left_out(run_async: RunAsync) -> None:
    def from_a(value: A, context: EventContext) -> str:
        return "from a"

    def from_b(value: B, context: EventContext) -> str:
        return "from b"

    def last(value: str, context: EventContext) -> str:
        return value.upper()

    chain = chain_of(from_a, from_b, last, run=run_async)
    assert chain.run(A(1), CONTEXT) == "FROM A"
    assert chain.run(B(1), CONTEXT) == "FROM B"
    assert chain.run(5, CONTEXT) == 5


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_none_ends_the_chain(kind: str, run_async: RunAsync) -> None:
    ran: list[str] = []

    def ends(value: int, context: EventContext) -> None:
        ran.append("ends")

    async def ends_async(value: int, context: EventContext) -> None:
        ran.append("ends")

    def after(value: Any, context: EventContext) -> str:
        ran.append("after")
        return "after"

    async def after_async(value: Any, context: EventContext) -> str:
        ran.append("after")
        return "after"

    functions = (ends, after, after_async) if kind == "def" else (ends_async, after_async, after)
    assert chain_of(*functions, run=run_async).run(1, CONTEXT) is None
    assert ran == ["ends"]


def test_a_first_step_may_take_none(run_async: RunAsync) -> None:
    def first(value: None, context: EventContext) -> int:
        return 7

    assert chain_of(first, run=run_async).run(None, CONTEXT) == 7


def test_def_and_async_def_mix_and_neighbours_share_a_coroutine(run_async: Any) -> None:
    loops: list[bool] = []

    def on_loop() -> None:
        try:
            asyncio.get_running_loop()
            loops.append(True)
        except RuntimeError:
            loops.append(False)

    def plain(value: int, context: EventContext) -> int:
        on_loop()
        return value + 1

    async def awaiting(value: int, context: EventContext) -> int:
        await asyncio.sleep(0)
        on_loop()
        return value + 1

    chain = chain_of(plain, awaiting, awaiting, plain, plain, awaiting, run=run_async)
    assert chain.run(0, CONTEXT) == 6
    assert loops == [False, True, True, False, False, True]
    assert run_async.runs == 2


def test_async_steps_that_do_not_fit_cost_no_hand_over(run_async: Any) -> None:
    async def awaiting(value: str, context: EventContext) -> str:
        return value

    assert chain_of(awaiting, run=run_async).run(1, CONTEXT) == 1
    assert run_async.runs == 0


def test_a_plain_function_may_return_a_coroutine(run_async: RunAsync) -> None:
    async def inner() -> int:
        return 5

    def outer(value: int, context: EventContext) -> Any:
        return inner()

    assert chain_of(outer, run=run_async).run(1, CONTEXT) == 5


def test_an_exception_of_a_step_comes_out_as_it_is(run_async: RunAsync) -> None:
    async def fails(value: int, context: EventContext) -> int:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        chain_of(fails, run=run_async).run(1, CONTEXT)


def test_arguments_go_to_the_first_step_that_runs_if_it_names_them(run_async: RunAsync) -> None:
    def skipped(value: str, context: EventContext, page: int) -> str:
        raise AssertionError

    def takes(value: int, context: EventContext, page: int, *, size: int = 10, other: str = "x") -> tuple[Any, ...]:
        return (value, page, size, other)

    chain = chain_of(skipped, takes, run=run_async)
    assert chain.run(1, CONTEXT, {"page": 2, "size": None, "unnamed": 3}) == (1, 2, 10, "x")


def test_delay_is_waited_between_steps(run_async: RunAsync) -> None:
    def plain(value: int) -> int:
        return value

    async def awaiting(value: int) -> int:
        return value

    started = time.monotonic()
    chain_of(plain, plain, awaiting, run=run_async, delay=0.02).run(1, CONTEXT)
    assert time.monotonic() - started >= 0.04
    started = time.monotonic()
    chain_of(plain, run=run_async, delay=60.0).run(1, CONTEXT)
    assert time.monotonic() - started < 30


def test_chains_run_side_by_side(run_async: RunAsync) -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meets(value: int, context: EventContext) -> int:
        meeting.wait()
        return value

    chain = chain_of(meets, run=run_async)
    threads = [threading.Thread(target=chain.run, args=(number, CONTEXT)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def generator(value: int) -> Any:
    yield value


async def async_generator(value: int) -> Any:
    yield value


def unresolvable(value: Nowhere) -> int:  # type: ignore[name-defined]  # noqa: F821
    return 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (5, "is not a function but int"),
        (generator, "is a generator"),
        (async_generator, "is a generator"),
        (unresolvable, "the type 'Nowhere' of the first parameter"),
    ],
)
def test_what_cannot_be_a_step_is_a_config_error(found: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        inspect_function("module", "step", found, 2)
