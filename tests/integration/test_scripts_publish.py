"""The script of producers: publish, with keys and a limit; and what its callers hear of a part that was not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from script_cases import Case, G, S, World, cases, check, do, then

from taskstream import keys
from taskstream.broker import Broker, Envelope
from taskstream.broker.publisher import CHUNK, Sent
from taskstream.errors import BrokerUnavailable, ConfigError, QueueFull, WrongKind
from taskstream.message import Message

DAY = 86_400
ORDER, ORDERED, DELAYED = "ts:{jobs}:order:", "ts:{jobs}:ordered", "ts:{jobs}:delayed:taskstream"
OTHER = "other"


@contextmanager
def broker_of(world: World) -> Iterator[Broker]:
    broker = Broker(world.url)
    try:
        yield broker
    finally:
        broker.close()


def letter(message: str, *uniques: str, limit: int | None = None, stream: str = S, **more: Any) -> Envelope:
    return Envelope(stream, Message(message, "n", b"{}"), uniques, limit, **more)


def waiting(count: int) -> dict[str, str]:
    """So many wait, all behind one of x."""
    return {f"{ORDERED} ": str(count), f"{ORDERED} {ORDER}x": str(count)}


def resting(message: str, body: str = "{}") -> str:
    return f'["v","1","id","{message}","name","n","body","{body}","sent","+0s"]'


def at(seconds: int, *uniques: str) -> Callable[[World], Any]:
    """Publish a message that is due so long after now."""
    return lambda world: publish(letter("a", *uniques, due_ms=world.now_ms() + seconds * 1000))(world)


def publish(*envelopes: Envelope) -> Callable[[World], Any]:
    """The ids, with the error's kind where there is one."""

    def act(world: World) -> Any:
        with broker_of(world) as broker:
            ids, error = broker.try_many(envelopes)
            return ids if error is None else (ids, type(error))

    return act


def entry(message: str) -> str:
    return f"* v 1 id {message} name n body {{}}"


def known(unique: str, message: str, later: int = 0) -> dict[str, Any]:
    return {f"ts:{{jobs}}:published:{unique}": message, f"ts:{{jobs}}:published:{unique} ttl": DAY + later}


def held(world: World) -> None:
    """One entry read by a worker, one not."""
    for number in (1, 2):
        world.add(S, f"1-{number}", f"m{number}")
    world.group(G)
    world.read("me", S, 1)


BROKEN = ([None], WrongKind)
HELD = ["1-1 id m1", "1-2 id m2"]

PUBLISH = [
    Case("a new key", [], publish(letter("a", "k")), ["a"], {S: [entry("a")], **known("k", "a")}),
    Case("a known key", [then(publish(letter("a", "k")))], publish(letter("b", "k")), ["a"]),
    Case(
        "without a key twice",
        [],
        publish(letter("a", limit=5), letter("a", limit=5)),
        ["a", "a"],
        {S: [entry("a")] * 2},
    ),
    Case(
        "two keys",
        [],
        publish(letter("a", "k", "l")),
        ["a"],
        {S: [entry("a")], **known("k", "a"), **known("l", "a")},
    ),
    Case(
        "two keys, one of them known: the other one is from now on",
        [then(publish(letter("a", "k")))],
        publish(letter("b", "l", "k")),
        ["a"],
        known("l", "a"),
    ),
    Case(
        "a key twice in one call",
        [],
        publish(letter("a", "k"), letter("b", "k"), letter("c", "l")),
        ["a", "a", "c"],
        {S: [entry("a"), entry("c")], **known("k", "a"), **known("l", "c")},
    ),
    Case(
        "with and without keys, in order",
        [],
        publish(letter("a"), letter("b", "k"), letter("c")),
        ["a", "b", "c"],
        {S: [entry("a"), entry("b"), entry("c")], **known("k", "b")},
    ),
    Case(
        "a key is of its stream",
        [then(publish(letter("a", "k")))],
        publish(letter("b", "k", stream=OTHER)),
        ["b"],
        {OTHER: [entry("b")], "ts:{other}:published:k": "b", "ts:{other}:published:k ttl": DAY},
    ),
    Case("room for the last", [held], publish(letter("a", limit=3)), ["a"], {S: [*HELD, entry("a")]}),
    Case("full: what is held counts", [held], publish(letter("a", limit=2)), ([None], QueueFull)),
    Case("over the limit", [held], publish(letter("a", "k", limit=1)), ([None], QueueFull)),
    Case(
        "full, but sent before",
        [held, then(publish(letter("a", "k")))],
        publish(letter("b", "k", limit=1)),
        ["a"],
    ),
    Case(
        "the first that find room",
        [held],
        publish(*(letter(one, one, limit=4) for one in "abcd")),
        (["a", "b", None, None], QueueFull),
        {S: [*HELD, entry("a"), entry("b")], **known("a", "a"), **known("b", "b")},
    ),
    Case(
        "nothing overtakes one that found no room",
        [held],
        publish(letter("a", limit=9, stream=OTHER), letter("b", limit=2), letter("c", limit=9, stream=OTHER)),
        (["a", None, None], QueueFull),
        {OTHER: [entry("a")]},
    ),
    Case("not before a time", [], at(50), ["a"], {f"{DELAYED} {resting('a')}": "+50s"}),
    Case("not before a time that has come", [], at(-50), ["a"], {S: [entry("a")]}),
    Case(
        "after a while",
        [],
        publish(letter("a", delay_ms=50_000), letter("b", delay_ms=0), letter("c")),
        ["a", "b", "c"],
        {f"{DELAYED} {resting('a')}": "+50s", S: [entry("b"), entry("c")]},
    ),
    Case(
        "after a while, once: its keys are remembered from then on",
        [],
        publish(letter("a", "k", delay_ms=50_000), letter("b", "k", delay_ms=50_000), letter("c", "k")),
        ["a", "a", "a"],
        {f"{DELAYED} {resting('a')}": "+50s", **known("k", "a", 50)},
    ),
    Case(
        "when it was sent first is said already",
        [],
        publish(Envelope(S, Message("a", "n", b'"\xc3\xbc"', sent_ms=7), delay_ms=50_000)),
        ["a"],
        {f'{DELAYED} ["v","1","id","a","name","n","body","\\"ü\\"","sent","7"]': "+50s"},
    ),
    Case(
        "what is delayed counts for what is to be delayed",
        [held, then(at(50))],
        publish(letter("b", delay_ms=1, limit=4), letter("c", limit=3), letter("d", delay_ms=1, limit=4)),
        (["b", "c", None], QueueFull),
        {f"{DELAYED} {resting('b')}": "+0s", S: [*HELD, entry("c")]},
    ),
    Case(
        "in order: the first of each key",
        [],
        publish(letter("a", ordering_key="x"), letter("b", ordering_key="y")),
        ["a", "b"],
        {S: [entry("a"), entry("b")], ORDER + "x": ["a"], ORDER + "y": ["b"]},
    ),
    Case(
        "in order: the others wait",
        [then(publish(letter("a", ordering_key="x")))],
        publish(letter("b", ordering_key="x"), letter("c"), letter("d", ordering_key="x")),
        ["b", "c", "d"],
        {S: [entry("a"), entry("c")], ORDER + "x": ["a", resting("b"), resting("d")], **waiting(2)},
    ),
    Case(
        "in order, once",
        [then(publish(letter("a", "k", ordering_key="x")))],
        publish(letter("b", "k", ordering_key="x"), letter("c", "l", ordering_key="x"), letter("d", "l")),
        ["a", "c", "c"],
        {ORDER + "x": ["a", resting("c")], **waiting(1), **known("l", "c")},
    ),
    Case(
        "what waits for its turn counts for what would wait, too",
        [then(publish(letter("a", ordering_key="x"), letter("b", ordering_key="x")))],
        publish(letter("c", limit=2), letter("d", ordering_key="x", limit=4), letter("e", ordering_key="x", limit=4)),
        (["c", "d", None], QueueFull),
        {S: [entry("a"), entry("c")], ORDER + "x": ["a", resting("b"), resting("d")], **waiting(2)},
    ),
    Case("an order of another type", [do("SET", ORDER + "x", 1)], publish(letter("a", ordering_key="x")), BROKEN),
    Case(
        "a count of another type",
        [then(publish(letter("a", ordering_key="x"))), do("SET", ORDERED, 1)],
        publish(letter("b", ordering_key="x")),
        BROKEN,
    ),
    Case("delays of another type", [do("SET", DELAYED, 1)], publish(letter("a", "k", delay_ms=1000)), BROKEN),
    Case("a key of another type", [do("SET", S, "x")], publish(letter("a", "k")), ([None], WrongKind)),
    Case("a key of another type, limited", [do("SET", S, "x")], publish(letter("a", limit=3)), ([None], WrongKind)),
]


@cases(*PUBLISH)
def test_publish(case: Case, world: World) -> None:
    check(case, world)


def test_more_than_one_run_of_the_script_keeps_the_order(world: World) -> None:
    ids = [f"m{number}" for number in range(2 * CHUNK + 50)]
    with broker_of(world) as broker:
        for limit in (None, 10_000):
            world.call("FLUSHALL")
            world.call("SCRIPT", "FLUSH")
            assert broker.publish_many(letter(one, one, limit=limit) for one in ids) == ids
            # Again: nothing more
            assert broker.publish_many(letter(one, one, limit=limit) for one in ids) == ids
            assert [fields[3].decode() for _, fields in world.call("XRANGE", S, "-", "+")] == ids


def test_a_full_stream_names_itself_and_what_was_sent(world: World) -> None:
    ids = [f"m{number}" for number in range(CHUNK + 50)]
    with broker_of(world) as broker:
        with pytest.raises(QueueFull) as caught:
            broker.publish_many(letter(one, limit=CHUNK + 20) for one in ids)
        error = caught.value
        assert (error.stream, error.length, error.limit) == (S, CHUNK + 20, CHUNK + 20)
        assert error.sent == ids[: CHUNK + 20]
        assert str(error).startswith(f"stream {S} is full: it has 120 entries and its max_length is 120")
        with pytest.raises(QueueFull):
            broker.publish(S, Message("late", "n", b"{}"), 120)
        with pytest.raises(QueueFull):
            broker.publish_once(S, Message("late", "n", b"{}"), "k", max_length=120)
        assert world.call("XLEN", S) == 120 and not world.call("EXISTS", keys.published(S, "k"))


def test_a_refusal_half_way_tells_which_were_sent(world: World) -> None:
    world.call("SET", OTHER, "x")
    with broker_of(world) as broker:
        for unique in ((), ("k",)):
            batch = [letter("a"), letter("b", stream=OTHER), letter("c", *unique)]
            found: Sent = broker.try_many(batch)
            assert found.ids == ["a", None, "c"] and isinstance(found.error, ConfigError)


def test_out_of_memory_sends_none_and_says_so(world: World) -> None:
    world.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        world.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        with broker_of(world) as broker:
            for envelope in (letter("a"), letter("a", "k"), letter("a", limit=9), letter("a", "k", limit=9)):
                with pytest.raises(
                    BrokerUnavailable, match=r"does not accept commands now: .*command not allowed when used memory"
                ) as caught:
                    broker.publish_many([envelope])
                assert not caught.value.maybe_sent
            assert world.keys() == {}
            # What follows from work that is done is taken: its own end gives the memory back
            assert broker.publish_many([letter("a", "k"), letter("b", "l", limit=9)], finishing=True) == ["a", "b"]
    finally:
        world.call("CONFIG", "SET", "maxmemory", "0")
    assert world.call("XLEN", S) == 2
