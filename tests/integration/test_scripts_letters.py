"""The scripts of dead letters: requeue, purge and forget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import redis
from script_cases import AGAIN, DEATHS, MONTH, Case, S, World, cases, check, do, seed, seed_with_other_group

from taskstream.broker.script import Script

DEAD_IDS, LETTERS = "ts:{jobs}:dead:g", "ts:{jobs}:letters:g"
OTHER_DEAD, OTHER_LETTERS = "ts:{jobs}:dead:h", "ts:{jobs}:letters:h"
TOO_MANY = [str(n) for n in range(2000)]


def sha(letter: str) -> str:
    return hashlib.sha1(letter.encode()).hexdigest()


def letter(message: str, text: str, *, seconds: int = -100, dead: str = DEAD_IDS, letters: str = LETTERS) -> Any:
    def build(world: World) -> None:
        world.call("ZADD", dead, world.now_ms() + seconds * 1000, message)
        world.call("HSET", letters, message, text)

    return build


LETTER, OTHERS = letter("m7", "seven"), letter("m7", "seven", dead=OTHER_DEAD, letters=OTHER_LETTERS)


def requeue(*wanted: tuple[str, str, list[str]]) -> Callable[[World], Any]:
    """``(id, letter as it was read, fields)`` each."""

    def act(world: World) -> Any:
        arguments: list[Any] = []
        for message, text, fields in wanted:
            arguments += (message, sha(text), 0, len(fields), *fields)
        return Script("requeue").run(world.call, [DEAD_IDS, LETTERS, AGAIN, DEATHS], arguments)

    return act


def purge(*wanted: tuple[str, str]) -> Callable[[World], Any]:
    def act(world: World) -> Any:
        arguments = [part for message, text in wanted for part in (message, sha(text))]
        return Script("purge").run(world.call, [DEAD_IDS, LETTERS], arguments)

    return act


def forget(limit: int = 10) -> Callable[[World], int]:
    return lambda world: world.me.forget(world.call, MONTH, limit)


GONE = {f"{DEAD_IDS} m7": None, f"{LETTERS} m7": None}
SEVEN = ("m7", "seven", ["id", "m7"])
REQUEUE = [
    Case("nothing asked for", [seed, LETTER], requeue(), []),
    Case("nobody is dead", [seed], requeue(SEVEN), [0]),
    Case(
        "into the group's own stream, and of two groups' letters only this one's",
        [seed_with_other_group, LETTER, OTHERS],
        requeue(SEVEN),
        [1],
        {**GONE, AGAIN: ["2-1 id m4", "* id m7"]},
    ),
    Case("before there is such a stream", [LETTER], requeue(SEVEN), [1], {**GONE, AGAIN: ["* id m7"]}),
    Case("twice", [seed, LETTER], requeue(SEVEN, SEVEN), [1, 0], {**GONE, AGAIN: ["2-1 id m4", "* id m7"]}),
    Case("it died again since it was read", [seed, LETTER], requeue(("m7", "six", ["id", "m7"])), [0]),
    Case("only its time is left", [seed, do("ZADD", DEAD_IDS, 1, "m7")], requeue(("m7", "", ["id", "m7"])), [0]),
    Case(
        "processes that died of it are forgotten, of others not",
        [seed, LETTER, do("HSET", DEATHS, "m7", 3, "m7 why", "late", "m8", 1)],
        requeue(SEVEN),
        [1],
        {**GONE, f"{DEATHS} m7": None, f"{DEATHS} m7 why": None, AGAIN: ["2-1 id m4", "* id m7"]},
    ),
    Case(
        "some of several, in the order asked for",
        [seed, LETTER, letter("m8", "eight"), letter("m9", "nine")],
        requeue(("m9", "nine", ["id", "m9", "a", "ü"]), ("m0", "", ["id", "m0"]), SEVEN),
        [1, 0, 1],
        {**GONE, f"{DEAD_IDS} m9": None, f"{LETTERS} m9": None, AGAIN: ["2-1 id m4", "* id m9 a ü", "* id m7"]},
    ),
    Case(
        "as many fields as an entry may have",
        [LETTER],
        requeue(("m7", "seven", TOO_MANY)),
        [1],
        {**GONE, AGAIN: [f"* {' '.join(TOO_MANY)}"]},
    ),
]
PURGE = [
    Case("nothing asked for", [seed, LETTER], purge(), []),
    Case("nobody is dead", [seed], purge(("m7", "seven")), [0]),
    Case("of two groups' letters only this one's", [seed, LETTER, OTHERS], purge(("m7", "seven")), [1], GONE),
    Case("twice", [LETTER], purge(("m7", "seven"), ("m7", "seven")), [1, 0], GONE),
    Case("it died again since it was read", [LETTER], purge(("m7", "six")), [0]),
    Case("only its time is left", [do("ZADD", DEAD_IDS, 1, "m7")], purge(("m7", "")), [1], {f"{DEAD_IDS} m7": None}),
    Case(
        "only its text is left",
        [do("HSET", LETTERS, "m7", "seven")],
        purge(("m7", "seven")),
        [1],
        {f"{LETTERS} m7": None},
    ),
    Case("some of several", [LETTER, letter("m8", "eight")], purge(("m0", ""), ("m7", "seven")), [0, 1], GONE),
]
OLD = [letter(f"m{number}", "old", seconds=-MONTH - number) for number in (7, 8, 9)]
FORGET = [
    Case("nobody is dead", [seed], forget(), 0),
    Case("none is old", [LETTER], forget(), 0),
    Case("the old ones of this group", [OLD[0], letter("m1", "new"), OTHERS], forget(), 1, GONE),
    Case(
        "the oldest first",
        [*OLD],
        forget(1),
        1,
        {f"{DEAD_IDS} m9": None, f"{LETTERS} m9": None},
    ),
]


@cases(*REQUEUE)
def test_requeue(case: Case, world: World) -> None:
    check(case, world)


@cases(*PURGE)
def test_purge(case: Case, world: World) -> None:
    check(case, world)


@cases(*FORGET)
def test_forget(case: Case, world: World) -> None:
    check(case, world)


@pytest.mark.parametrize("key", [AGAIN, DEATHS, DEAD_IDS])
def test_a_requeue_that_fails_leaves_the_letter(world: World, key: str) -> None:
    LETTER(world)
    world.call("SET", key, "of another type")
    before = world.keys()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        requeue(SEVEN)(world)
    assert world.keys() == before


def test_a_full_server_still_requeues(world: World) -> None:
    LETTER(world)
    used = int(world.call("INFO", "memory").decode().partition("used_memory:")[2].split()[0])
    world.call("CONFIG", "SET", "maxmemory", max(1, used // 2))
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            world.call("XADD", S, "*", "id", "m1")
        assert requeue(SEVEN)(world) == [1]
    finally:
        world.call("CONFIG", "SET", "maxmemory", 0)
    assert world.keys() == {AGAIN: ["* id m7"]}
