"""The script of a process that comes back after its lease was lost: it has not died."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from script_cases import AGAIN, DEAD, DEATHS, LEASE_MS, LEASES, Case, G, S, World, cases, check, do, seed_corpse, then

from taskstream.broker.group import PIECE, ConsumerGroup

M1, M2, M4 = (False, "1-1", "m1"), (False, "1-2", "m2"), (True, "2-1", "m4")


def absolve(*held: tuple[bool, str, str]) -> Callable[[World], None]:
    return lambda world: ConsumerGroup(S, G, DEAD, LEASE_MS).absolve(world.call, held or (M1, M2, M4))


def claimed(count: int) -> Callable[[World], Any]:
    """So many of what the corpse held were taken over."""
    return lambda world: world.me.claim(world.call, DEAD, float(world.call("ZSCORE", LEASES, DEAD)), count)


def deaths(*pairs: object) -> Callable[[World], Any]:
    return do("HSET", DEATHS, *pairs)


MARKED = {f"{LEASES} corpse": -1}
COUNT_GONE = {f"{DEATHS} m1": None, f"{DEATHS} ttl": None}

ABSOLVE = [
    Case(
        "all was taken over",
        [seed_corpse(-60), then(claimed(10))],
        absolve(),
        None,
        COUNT_GONE | {f"{DEATHS} m2": None, f"{DEATHS} m4": None},
    ),
    Case(
        "who died before stays counted",
        [seed_corpse(-60), deaths("m1", 2, "m2", 1), then(claimed(10))],
        absolve(),
        None,
        {f"{DEATHS} m1": "2", f"{DEATHS} m2": "1", f"{DEATHS} m4": None},
    ),
    Case("a piece was taken over", [seed_corpse(-60), then(claimed(1))], absolve(), None, MARKED | COUNT_GONE),
    Case(
        "a piece was taken over: what is left keeps the deaths it had",
        [seed_corpse(-60), deaths("m2", 2, "m4", 1), then(claimed(1))],
        absolve(),
        None,
        MARKED | {f"{DEATHS} m1": None},
    ),
    Case(
        "what is left is claimed without a death",
        [seed_corpse(-60), then(claimed(1), absolve())],
        lambda w: [one.deaths for one in claimed(10)(w).entries],
        [0, 0],
        {
            f"{S} g/me": ["1-1 x2", "1-2 x2"],
            f"{AGAIN} g/me": ["2-1 x2"],
            f"{S} g/corpse": None,
            f"{AGAIN} g/corpse": None,
            f"{LEASES} corpse": None,
        },
    ),
    Case(
        "said once more before the rest is taken over",
        [seed_corpse(-60), deaths("m1", 2), then(claimed(1), absolve())],
        absolve(),
        None,
    ),
    Case(
        "the message is done elsewhere: forgotten already",
        [seed_corpse(-60), then(claimed(10)), do("HDEL", DEATHS, "m1")],
        absolve(M1),
        None,
    ),
    Case(
        "what was not held here stays counted",
        [seed_corpse(-60), deaths("m9", 1), then(claimed(10))],
        absolve(M1),
        None,
        {f"{DEATHS} m1": None},
    ),
    Case(
        "no number, which we did not write",
        [seed_corpse(-60), deaths("m1", "x"), do("DEL", LEASES)],
        absolve(M1),
        None,
        MARKED,
    ),
    Case(
        "why a run was ended stays",
        [seed_corpse(-60), then(claimed(10)), deaths("m1 why", "too long")],
        absolve(M1),
        None,
        {f"{DEATHS} m1": None},
    ),
    *(
        Case(f"a lease that {word}", [seed_corpse(score), deaths("m1", 2)], absolve(), None)
        for word, score in (
            ("holds", 60),
            ("ran out and nobody took", -60),
            ("its supervisor gave up", 1),
            ("was taken after it was given up", -1),
        )
    ),
    Case(
        "the leases are lost, nothing is taken over: no death will be counted",
        [seed_corpse(60), deaths("m1", 2), do("DEL", LEASES)],
        absolve(),
        None,
        MARKED,
    ),
    Case(
        "the same, with a lease of grace",
        [seed_corpse(60), deaths("m1", 2), do("ZREM", LEASES, DEAD), lambda w: w.me.sweep(w.call)],
        absolve(),
        None,
        MARKED,
    ),
    Case("nothing is there at all", [], absolve(), None),
]


@cases(*ABSOLVE)
def test_absolve(case: Case, world: World) -> None:
    check(case, world)


@pytest.mark.parametrize("taken", [0, PIECE - 1, PIECE, PIECE + 2])
def test_more_than_one_piece(world: World, taken: int) -> None:
    # Given many messages, some of which were taken over and counted, and all with a death of before
    ids = [f"m{number}" for number in range(PIECE + 5)]
    for number, one in enumerate(ids, 1):
        world.add(S, f"1-{number}", one)
    world.group(G)
    world.group(G, AGAIN)
    world.me.register(world.call)
    world.lease(DEAD, -60)
    world.read(DEAD, S, len(ids))
    world.call("HSET", DEATHS, *(word for one in ids for word in (one, 1)))
    world.lease(DEAD, 0)
    if taken:
        assert len(claimed(taken)(world).entries) == taken
    # When who held them comes back
    absolve(*((False, f"1-{number}", one) for number, one in enumerate(ids, 1)))(world)
    # Then exactly those are taken back that were counted, and the rest is claimed without a death
    while not claimed(500)(world).finished:
        pass
    assert world.call("HVALS", DEATHS) == [b"1"] * len(ids)


def test_a_broken_key_of_deaths_changes_nothing(world: World) -> None:
    seed_corpse(0)(world)
    world.call("SET", DEATHS, "text")
    before = world.keys()
    refusal = ""
    try:
        absolve()(world)
    except Exception as error:
        refusal = str(error)
    assert "WRONGTYPE" in refusal
    assert world.keys() == before
    world.call.__self__.close()  # type: ignore[attr-defined]  # the errors keep it in a circle, open until collected
