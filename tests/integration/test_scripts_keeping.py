"""The scripts that keep a stream going: promote and trim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from script_cases import (
    AGAIN,
    DELAYED,
    ME,
    Case,
    G,
    S,
    World,
    cases,
    check,
    do,
    seed,
    seed_corpse,
    seed_with_other_group,
)

from taskstream import keys


def promote(limit: int = 10) -> Callable[[World], tuple[int, Any]]:
    def act(world: World) -> tuple[int, Any]:
        moved, wait_ms = world.me.promote(world.call, limit)
        return moved, None if wait_ms is None else round(wait_ms, -4)

    return act


def due(*members: str, at: int = -10) -> Callable[[World], None]:
    def build(world: World) -> None:
        for n, member in enumerate(members):
            world.delay(member, at + n)

    return build


GARBAGE = {
    "no JSON": "no json",
    "an object": '{"id":"m"}',
    "half a pair": '["id"]',
    "empty": "[]",
    "a nested list": '["id",["m"]]',
    "null": '["id",null]',
    "true": '["id",true]',
    "a number": "5",
    "more than a script can spread": '["x"' + ',"x"' * 9_999 + "]",
}
PROMOTE = [
    Case("nothing", [seed], promote(), (0, None)),
    Case("nothing due", [seed, due('["id","m5"]', at=50)], promote(), (0, 50_000)),
    Case(
        "what is due, in order",
        [seed, due('["id","m5"]', '["id","m6","body","ü"]'), due('["id","m7"]', at=50)],
        promote(),
        (2, 50_000),
        {
            AGAIN: ["2-1 id m4", "* id m5", "* id m6 body ü"],
            f'{DELAYED} ["id","m5"]': None,
            f'{DELAYED} ["id","m6","body","ü"]': None,
        },
    ),
    Case(
        "no more than asked for, and more at once",
        [seed, due('["id","m5"]', '["id","m6"]')],
        promote(1),
        (1, 0),
        {AGAIN: ["2-1 id m4", "* id m5"], f'{DELAYED} ["id","m5"]': None},
    ),
    *(
        Case(
            f"garbage ({word}) becomes an unreadable entry and stops nobody",
            [seed, due(member, '["id","m5"]')],
            promote(),
            (2, None),
            {
                AGAIN: ["2-1 id m4", f"* unreadable {member}", "* id m5"],
                f"{DELAYED} {member}": None,
                f'{DELAYED} ["id","m5"]': None,
            },
        )
        for word, member in GARBAGE.items()
    ),
]


def trim(world: World) -> int:
    return world.me.trim(world.call, 1000)


def done(*entries: str, group: str = G) -> Callable[[World], None]:
    return lambda world: world.call("XACK", S, group, *entries)


TWO_LEFT = {S: ["1-2 id m2", "1-3 id m3"]}
TRIM = [
    Case("no stream", [], trim, 0),
    Case("no group: nobody has read anything", [lambda w: w.add(S, "1-1", "m1")], trim, 0),
    Case("all pending", [seed], trim, 0),
    Case("what lies before the oldest pending", [seed, done("1-1")], trim, 1, TWO_LEFT),
    Case("a hole among the pending stays", [seed, done("1-2")], trim, 0),
    Case("what lies before the oldest unread", [seed, done("1-1", "1-2")], trim, 2, {S: ["1-3 id m3"]}),
    Case("all of it is done", [seed, lambda w: w.read(ME, S, 1), done("1-1", "1-2", "1-3")], trim, 3, {S: []}),
    Case("another group has read nothing", [seed_with_other_group, done("1-1", "1-2")], trim, 0),
    Case(
        "another group holds one of them",
        [seed_with_other_group, done("1-1", "1-2"), lambda w: w.read("you", S, 2, "h"), done("1-1", group="h")],
        trim,
        1,
        TWO_LEFT,
    ),
    Case(
        "both are through with two",
        [
            seed_with_other_group,
            done("1-1", "1-2"),
            lambda w: w.read("you", S, 3, "h"),
            done("1-1", "1-2", "1-3", group="h"),
        ],
        trim,
        2,
        {S: ["1-3 id m3"]},
    ),
    Case(
        "another group is further",
        [seed_with_other_group, lambda w: w.read("you", S, 2, "h"), done("1-1", "1-2", group="h")],
        trim,
        0,
    ),
    *(
        Case(
            f"sequence numbers {first} and {second}, needed by {g} and {h}",
            [
                do("XADD", S, f"5-{first}", "id", "a"),
                do("XADD", S, f"5-{second}", "id", "b"),
                do("XGROUP", "CREATE", S, G, g),
                do("XGROUP", "CREATE", S, "h", h),
            ],
            trim,
            0,
        )
        # Longer as text, and beyond what a double holds.
        for first, second in ((9, 10), (9007199254740992, 9007199254740993))
        for g, h in (("0", f"5-{first}"), (f"5-{first}", "0"))
    ),
    Case(
        "a group that an operator set back reads again, although something later is pending",
        [seed, done("1-1"), do("XGROUP", "SETID", S, G, "0")],
        trim,
        0,
    ),
    *(
        Case(
            f"a retention that is {word} keeps nothing and stops nobody",
            [seed, done("1-1"), do("HSET", keys.retention(S), "h", word)],
            trim,
            1,
            TWO_LEFT,
        )
        for word in ("text", "inf", "1e300", "nan")
    ),
    Case("an empty stream", [seed_corpse(60), do("XTRIM", S, "MAXLEN", 0), done("1-1", "1-2")], trim, 0),
]


@cases(*PROMOTE)
def test_promote(case: Case, world: World) -> None:
    check(case, world)


@cases(*TRIM)
def test_trim(case: Case, world: World) -> None:
    check(case, world)


def test_a_trim_of_many_goes_piece_by_piece(world: World) -> None:
    for number in range(1000):
        world.add(S, f"1-{number + 1}", "m")
    world.group(G)
    world.read(ME, S, 900)
    world.call("XACK", S, G, *(f"1-{n + 1}" for n in range(900)))
    removed = world.me.trim(world.call, 200)
    assert 0 < removed <= 200
    pieces = [removed]
    while pieces[-1]:
        pieces.append(world.me.trim(world.call, 200))
    assert sum(pieces) == 900
    assert world.call("XLEN", S) == 100
