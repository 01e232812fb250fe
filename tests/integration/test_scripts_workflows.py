"""The scripts of chords: open_chord and join; and what happens to a chord whose members' workers die at any step."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, cast

import greenlet
import msgspec
import pytest
from script_cases import MONTH, Case, World, cases, check, do, then

from taskstream import keys
from taskstream.broker import Broker
from taskstream.broker.workflows import Chords, envelope_of
from taskstream.continuation import Failed, after, after_failure, failed_before
from taskstream.errors import BrokerUnavailable
from taskstream.handler import Joining, Opening, Successor
from taskstream.logs import FieldLogger
from taskstream.message import Message, from_fields
from taskstream_worker.membership import Membership
from taskstream_worker.successors import Successors

Q, C = "sums", "callback"
CHORD, REAL, TOLD = keys.chord(Q, C), keys.published(Q, keys.unique_id(C)), keys.published(Q, keys.unique_failure(C))
THEN = b'{"calls":[{"id":"callback","task":"shop.total","queue":"sums"}]}'


def chords(world: World) -> Chords:
    return Chords(Broker(world.url))


def opening(total: int) -> Callable[[World], Any]:
    return lambda world: chords(world).open([Opening(Q, C, total, THEN, b"{}")])


def member(index: int, value: bytes | None) -> Joining:
    return Joining(Q, C, index, value, b"{}" if value is None else None, f"m{index}", "root")


def join(*members: tuple[int, bytes | None]) -> Callable[[World], Any]:
    """What follows, as values (None for a failure), and how many chords are gone."""

    def act(world: World) -> Any:
        joined, gone = chords(world).join([member(*one) for one in members])
        assert all((one.then, one.headers) == (THEN, b"{}") for one in joined)
        return [one.values for one in joined], len(gone)

    return act


def kept(total: int, **values: str) -> dict[str, Any]:
    """A chord as it is in Redis."""
    fields = {"total": str(total), "then": THEN.decode(), "headers": "{}", **values}
    return {f"{CHORD} {name}": value for name, value in fields.items()} | {f"{CHORD} ttl": MONTH}


def done(world: World) -> None:
    joined, _ = chords(world).join([member(0, b"0"), member(1, b"1")])
    chords(world).close(joined)


OPEN = [
    Case("a new one", [], opening(2), None, kept(2)),
    Case("again", [then(opening(2), do("EXPIRE", CHORD, 100))], opening(2), None, {f"{CHORD} ttl": MONTH}),
    Case("again, with values", [then(opening(2), join((0, b"5")))], opening(2), None),
    Case("one that is through", [do("SET", REAL, C, "EX", 100)], opening(2), None),
]

ZERO, ONE = {f"{CHORD} 0": "0"}, {f"{CHORD} 1": "1"}
BOTH = [[b"0", b"1"]]

JOIN = [
    Case("the first of two", [then(opening(2))], join((0, b"[1]")), ([], 0), {f"{CHORD} 0": "[1]"}),
    Case("the last of two", [then(opening(2), join((1, b"1")))], join((0, b"0")), (BOTH, 0), ZERO),
    Case("the last again", [then(opening(2), join((1, b"1"), (0, b"0")))], join((0, b"9")), (BOTH, 0)),
    Case("the first again", [then(opening(2), join((0, b"0")))], join((0, b"9")), ([], 0)),
    Case("all at once", [then(opening(2))], join((1, b"1"), (0, b"0")), (BOTH, 0), ZERO | ONE),
    Case(
        "the time to live starts over",
        [then(opening(2), do("EXPIRE", CHORD, 100))],
        join((0, b"0")),
        ([], 0),
        ZERO | {f"{CHORD} ttl": MONTH},
    ),
    Case("a failure", [then(opening(2))], join((0, None)), ([None], 0)),
    Case("another failure, not told yet", [then(opening(2), join((0, None)))], join((1, None)), ([None], 0)),
    Case("a failure that was told", [then(opening(2)), do("SET", TOLD, C, "EX", 100)], join((1, None)), ([], 0)),
    Case("a success after a failure", [then(opening(1), join((0, None)))], join((0, b"0")), ([[b"0"]], 0), ZERO),
    Case("a failure after a success", [then(opening(2), join((0, b"0")))], join((0, None)), ([None], 0)),
    Case("a failure of a complete one", [then(opening(1), join((0, b"0")))], join((0, None)), ([[b"0"]], 0)),
    Case("places that there are not", [then(opening(2))], join((2, b"2"), (-1, b"-1")), ([], 0)),
    Case(
        "a value of nobody does not stand for a missing one",
        [then(opening(3), join((1, b"1"))), do("HSET", CHORD, "text", "x")],
        join((0, b"0")),
        ([], 0),
        ZERO,
    ),
    Case("no chord", [], join((0, b"0"), (1, None)), ([], 1)),
    Case("one that is through", [then(opening(2), done)], join((0, b"0")), ([], 1)),
    Case("what is no chord", [do("HSET", CHORD, "total", "x"), do("EXPIRE", CHORD, MONTH)], join((0, b"0")), ([], 1)),
]


@cases(*OPEN)
def test_open(case: Case, world: World) -> None:
    check(case, world)


@cases(*JOIN)
def test_join(case: Case, world: World) -> None:
    check(case, world)


def test_closing_a_chord_leaves_nothing(world: World) -> None:
    opening(2)(world)
    done(world)
    assert world.keys() == {}


def test_a_chord_of_many_joins_in_pieces_and_gives_the_values_in_order(world: World) -> None:
    total = 10_000
    opening(total)(world)
    order = list(range(total))
    random.Random(3).shuffle(order)
    answers = []
    for start in range(0, total, 1000):
        joined, gone = chords(world).join([member(index, b"%d" % index) for index in order[start : start + 1000]])
        assert not gone
        answers += joined
    assert len(answers) == 1 and answers[0].values == [b"%d" % index for index in range(total)]


def test_several_chords_join_in_one_round_trip(world: World) -> None:
    both = [Opening(Q, "a", 1, b"{}", b"{}"), Opening("other", "b", 2, b"{}", b"{}")]
    chords(world).open(both)
    here, there = Joining(Q, "a", 0, b"1", None, "m", "m"), Joining("other", "b", 1, b"2", None, "m", "m")
    joined, gone = chords(world).join([here, there])
    assert [one.joining for one in joined] == [here] and not gone


# -- whatever dies, whenever -------------------------------------------------------------------------------


class Died(BaseException):
    """The worker is gone."""


class Interposed(Broker):
    """Gives way to the scheduler around every command, where the worker may die or lose a reply."""

    def _around(self, act: Callable[[], Any]) -> Any:
        if greenlet.getcurrent().parent is None:
            return act()
        greenlet.getcurrent().parent.switch("before")
        answer = act()
        lost = greenlet.getcurrent().parent.switch("after")
        if lost:
            raise BrokerUnavailable("the reply is lost", maybe_sent=True)
        return answer

    def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        return cast(list[Any], self._around(lambda: super(Interposed, self).calls(commands)))

    def publish_many(self, items: Any, *, finishing: bool = False) -> list[str]:
        return cast(list[str], self._around(lambda: super(Interposed, self).publish_many(items, finishing=finishing)))


class Sure:
    """A lease that holds."""

    def wait_until_sure(self) -> bool:
        return True


class Chaos:
    """Members of one chord, each run by workers that die at any moment, until all have been acknowledged."""

    def __init__(self, url: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.broker = Interposed(url)
        self.total = self.random.randint(1, 8)
        self.never = self.random.random() < 0.2
        """The first member never succeeds."""
        self.successors = Successors(self.broker, FieldLogger("test", "-", "test"))
        self.failed_for_good = False

    def messages(self) -> list[Message]:
        then = {"join": {"id": C, "queue": Q}}
        return [
            Message(f"m{index}", "shop.inc", b"{}", {"ts-then": msgspec.json.encode(_placed(then, index)).decode()})
            for index in range(self.total)
        ]

    def attempt(self, message: Message, fails: bool) -> None:
        """One run to its end, as far as the worker lives."""
        if fails:
            followers = after_failure(message, Failed("FAILURE", "E", "text", "", message.id))
        else:
            followers = after(message, lambda: message.id.removeprefix("m").encode())
        assert self.successors.publish(cast(Membership, Sure()), followers)

    def run(self) -> None:
        self.broker_open()
        waiting = self.messages()
        running: list[tuple[greenlet.greenlet, Message, bool]] = []
        deaths = 0
        while waiting or running:
            if waiting and (not running or self.random.random() < 0.3):
                message = waiting.pop(self.random.randrange(len(waiting)))
                fails = (self.never and message.id == "m0") or self.random.random() < 0.3
                worker = greenlet.greenlet(self.attempt)
                running.append((worker, message, fails))
                worker.switch(message, fails)
            else:
                index = self.random.randrange(len(running))
                worker, message, fails = running[index]
                if deaths < 40 and self.random.random() < 0.25:
                    deaths += 1
                    with contextlib.suppress(Died):
                        worker.throw(Died)
                    waiting.append(message)  # taken over
                    del running[index]
                    continue
                worker.switch(self.random.random() < 0.1)
            for entry in [one for one in running if one[0].dead]:
                running.remove(entry)
                _, message, fails = entry
                if fails and not (self.never and message.id == "m0"):
                    waiting.append(message)  # a dead letter, requeued
                elif fails:
                    self.failed_for_good = True

    def broker_open(self) -> None:
        Chords(self.broker).open([Opening(Q, C, self.total, THEN, b"{}")])


def _placed(then: dict[str, Any], index: int) -> dict[str, Any]:
    return {"join": {**then["join"], "index": index}}


def published(world: World) -> Iterator[Message]:
    for _, fields in world.call("XRANGE", Q, "-", "+"):
        yield from_fields(fields)


@pytest.mark.parametrize("seed", range(60))
def test_the_callback_is_called_once_whatever_dies(world: World, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A lost reply is tried again at once
    monkeypatch.setattr("taskstream_worker.successors.gevent.sleep", lambda seconds: None)
    # Given a chord whose members' workers die or lose replies at any command, whose runs fail, and are requeued
    chaos = Chaos(world.url, seed)
    # When every member has been acknowledged
    chaos.run()
    # Then the callback has been published once, with every value in its place; or it was told once why not
    found = list(published(world))
    real = [one for one in found if failed_before(one) is None]
    told = [one for one in found if failed_before(one) is not None]
    assert len(told) <= 1
    if chaos.failed_for_good:
        assert not real and len(told) == 1
        failed = failed_before(told[0])
        assert failed is not None and (failed.state, failed.type) == ("FAILURE", "E")
    else:
        values = list(range(chaos.total))
        assert [(one.id, one.name, msgspec.json.decode(one.body)) for one in real] == [
            (C, "shop.total", {"args": [values]})
        ]
        assert not world.call("EXISTS", CHORD)


def test_a_successor_is_published_as_its_call_says(world: World) -> None:
    with_all = Successor(Q, Message("m", "t", b"{}", priority=5), delay_ms=60_000)
    Broker(world.url).publish_many([envelope_of(with_all), envelope_of(with_all)])
    delayed = keys.delayed(Q, "taskstream")
    assert world.call("ZCARD", delayed) == 1 and world.call("XLEN", Q) == 0
