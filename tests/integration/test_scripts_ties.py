"""What the end of a message does to what it is tied to: the order of its key, the lock of its unique call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from script_cases import AGAIN, LEASES, ME, Case, G, S, World, cases, check, commit, do, seed, then

from taskstream import keys
from taskstream.broker import Broker, Envelope, turns
from taskstream.broker.letters import Letters
from taskstream.handler import QUEUE_GROUP
from taskstream.message import ORDER_HEADER, UNIQUE_HEADER, Message, fields_json
from taskstream.ties import Tie, ties_of, ties_of_fields

ORDER, ORDERED, LOCK = keys.order(S, "k"), keys.ordered(S), keys.published(S, keys.unique_call("c"))
OTHER = keys.order(S, "l")


def order(message: str, key: str = "k") -> tuple[Tie, ...]:
    return ties_of(S, message, {ORDER_HEADER: key})


def unique(message: str, call: str = "c") -> tuple[Tie, ...]:
    return ties_of(S, message, {UNIQUE_HEADER: call})


def waits(message: str) -> str:
    return f'["id","{message}"]'


def counted(count: int | None, key: str = ORDER) -> dict[str, str | None]:
    """So many wait, all in one order."""
    said = None if count is None else str(count)
    return {f"{ORDERED} ": said, f"{ORDERED} {key}": said}


def queue(*waiting: str, head: str = "m1", key: str = ORDER) -> list[Callable[[World], Any]]:
    """An order whose turn is ``head``'s."""
    counted = [do("HINCRBY", ORDERED, field, len(waiting)) for field in ("", key) if waiting]
    return [seed, do("RPUSH", key, head, *waiting), *counted]


def locked(message: str = "m1", seconds: int = 100) -> list[Callable[[World], Any]]:
    return [seed, do("SET", LOCK, message, "EX", seconds)]


RETRY = ("retry", False, "1-1", "m1", 50_000, waits("m1"))
GIVE_BACK = ("give_back", False, "1-1", "m1", waits("m1"))
ENDS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("done", ("ack_suspect", False, "1-1", "m1"), {}),
    (
        "dead",
        ("bury", False, "1-1", "m1", "{}"),
        {f"{keys.dead(S, G)} m1": "+0s", f"{keys.letters(S, G)} m1": "{}"},
    ),
]
PUT_BACK: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("to be tried again", RETRY, {f"{keys.delayed(S, G)} {waits('m1')}": "+50s"}),
    ("given back", GIVE_BACK, {AGAIN: ["2-1 id m4", "* id m1"]}),
]
GONE_1 = {S: ["1-2 id m2", "1-3 id m3"], f"{S} g/me": ["1-2 x1"]}
NEXT = {AGAIN: ["2-1 id m4", "* id m7"]}
WON = (True, False)

TIES = [
    *(
        Case(f"{word}: the next one's turn", queue(waits("m7"), waits("m8")), commit((*move, order("m1"))), WON, change)
        for word, move, more in ENDS
        for change in [GONE_1 | more | NEXT | {ORDER: ["m7", waits("m8")], **counted(1)}]
    ),
    *(
        Case(f"{word}: the last of its key", queue(), commit((*move, order("m1"))), WON, GONE_1 | more | {ORDER: None})
        for word, move, more in ENDS
    ),
    *(
        Case(f"{word}: it stays its turn", queue(waits("m7")), commit((*move, order("m1"))), WON, GONE_1 | more)
        for word, move, more in PUT_BACK
    ),
    Case(
        "the last one that waited: none is counted",
        queue(waits("m7")),
        commit((*ENDS[0][1], order("m1"))),
        WON,
        GONE_1 | NEXT | {ORDER: ["m7"], **counted(None)},
    ),
    Case(
        "not its turn: as after FLUSHALL, or under a name that others took",
        queue(waits("m7"), head="m0"),
        commit((*ENDS[0][1], order("m1"))),
        WON,
        GONE_1,
    ),
    *(
        Case(
            f"a count that is {word} stops no order",
            [*queue(waits("m7")), do("HSET", keys.ordered(S), "", word, ORDER, word)],
            commit((*ENDS[0][1], order("m1"))),
            WON,
            GONE_1 | NEXT | {ORDER: ["m7"], **counted(None)},
        )
        for word in ("text", "1.5", "-7")
    ),
    Case("no such order", [seed], commit((*ENDS[0][1], order("m1"))), WON, GONE_1),
    Case(
        "several keys in one commit, and one with two messages of it",
        [*queue(waits("m7")), *queue(waits("m8"), head="m2", key=OTHER)[1:]],
        commit((*ENDS[0][1], order("m1")), ("ack_suspect", False, "1-2", "m2", order("m2", "l")), ("ack", True, "2-1")),
        WON,
        {
            S: ["1-3 id m3"],
            f"{S} g/me": [],
            f"{AGAIN} g/me": [],
            AGAIN: ["* id m7", "* id m8"],
            ORDER: ["m7"],
            OTHER: ["m8"],
            **counted(None),
            **counted(None, OTHER),
        },
    ),
    Case(
        "what is no message becomes unreadable, and the one behind it is next",
        queue("nonsense", '["a"]', '["no","id"]', waits("m7")),
        commit((*ENDS[0][1], order("m1"))),
        WON,
        GONE_1
        | {
            AGAIN: ["2-1 id m4", "* unreadable nonsense", '* unreadable ["a"]', "* no id", "* id m7"],
            ORDER: ["m7"],
            **counted(None),
        },
    ),
    *(
        Case(f"{word}: its call may be sent again", locked(), commit((*move, unique("m1"))), WON, change)
        for word, move, more in ENDS
        for change in [GONE_1 | more | {LOCK: None, f"{LOCK} ttl": None}]
    ),
    Case(
        "given back: its call stays locked", locked(), commit((*GIVE_BACK, unique("m1"))), WON, GONE_1 | PUT_BACK[1][2]
    ),
    Case(
        "to be tried again: its call stays locked as much longer",
        locked(),
        commit((*RETRY, unique("m1"))),
        WON,
        GONE_1 | PUT_BACK[0][2] | {f"{LOCK} ttl": 150},
    ),
    Case(
        "to be tried again at a time: just so",
        locked(),
        lambda world: commit(("retry", False, "1-1", "m1", f"@{world.now_ms() + 50_000}", waits("m1"), unique("m1")))(
            world
        ),
        WON,
        GONE_1 | PUT_BACK[0][2] | {f"{LOCK} ttl": 150},
    ),
    Case("the lock is another's", locked("m9"), commit((*ENDS[0][1], unique("m1"))), WON, GONE_1),
    Case("no such lock", [seed], commit((*RETRY, unique("m1"))), WON, GONE_1 | PUT_BACK[0][2]),
    Case(
        "both ties",
        [*queue(waits("m7")), *locked()[1:]],
        commit((*ENDS[0][1], order("m1") + unique("m1"))),
        WON,
        GONE_1 | NEXT | {ORDER: ["m7"], **counted(None), LOCK: None, f"{LOCK} ttl": None},
    ),
    *(
        Case(
            f"{word}, again after its reply was lost",
            [*queue(waits("m7"), waits("m8")), then(commit((*move, order("m1"))))],
            commit((*move, order("m1"))),
            WON,
        )
        for word, move, _ in (*ENDS, *PUT_BACK)
    ),
    *(
        Case(
            f"{word}, by one that lost its lease",
            [*queue(waits("m7")), do("ZADD", LEASES, 0, ME)],
            commit((*move, order("m1"))),
            (False, False),
        )
        for word, move, _ in (*ENDS, *PUT_BACK)
    ),
]


@cases(*TIES)
def test_ties(case: Case, world: World) -> None:
    check(case, world)


@pytest.mark.parametrize(
    ("key", "ties"),
    [(ORDER, order("m1")), (ORDERED, order("m1")), (LOCK, unique("m1"))],
    ids=["order", "ordered", "lock"],
)
def test_a_tie_of_another_type_is_named_before_anything_is_done(world: World, key: str, ties: tuple[Tie, ...]) -> None:
    seed(world)
    world.call("XADD", key, "1-1", "a", 1)
    before = world.keys()
    with pytest.raises(redis.ResponseError, match=rf"^WRONGTYPE {key} is a stream and should be a (list|hash|string)"):
        commit((*ENDS[0][1], ties))(world)
    assert world.keys() == before


def test_who_waits_is_sent_in_order_by_two_producers_and_one_that_dies_makes_room(world: World) -> None:
    """The whole life of a key: published, ended, waited for; nothing is left of it at the end."""
    world.me.register(world.call)
    brokers = [Broker(world.url), Broker(world.url)]
    for number in range(6):
        name = f"m{number}"
        message = Message(name, "n", b"{}", {ORDER_HEADER: "k"})
        brokers[number % 2].send(Envelope(S, message, ordering_key="k"))
    assert brokers[0].group_states(S)[0].waiting == 1
    for number in range(6):
        (entry,) = world.me.read(world.call, 10, None)
        found = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
        assert found[b"id"].decode() == f"m{number}"
        move = "bury" if number == 3 else "ack_suspect"
        rest = ["{}"] if number == 3 else []
        assert commit((move, entry.from_again, entry.entry_id, f"m{number}", *rest, order(f"m{number}")))(world)[0]
    assert not world.me.read(world.call, 10, None)
    assert not world.call("EXISTS", ORDER, ORDERED)
    for broker in brokers:
        broker.close()


LETTER_KEYS = [keys.dead(S, QUEUE_GROUP), keys.letters(S, QUEUE_GROUP)]


def bury(world: World, headers: dict[str, Any]) -> Letters:
    """A dead letter m1 of the task queue."""
    fields = fields_json(Message("m1", "n", b"{}", headers, 3))
    text = f'{{"fields":{fields},"error":{{"type":"E","message":"","traceback":""}},"deliveries":3}}'
    world.call("ZADD", LETTER_KEYS[0], world.now_ms() - 1000, "m1")
    world.call("HSET", LETTER_KEYS[1], "m1", text)
    return Letters(Broker(world.url), S, QUEUE_GROUP)


def requeue(letters: Letters) -> list[Any]:
    found = [one for letters_found, _ in letters.get(["m1"]) for one in letters_found]
    return [(verdict.done, verdict.problem) for verdict in letters.requeue(found)]


def test_a_requeued_letter_takes_its_turn_again(world: World) -> None:
    letters = bury(world, {ORDER_HEADER: "k"})
    assert requeue(letters) == [(True, None)]
    after = world.keys()
    assert after[ORDER] == ["m1"] and len(after[keys.again(S, QUEUE_GROUP)]) == 1 and f"{ORDERED} " not in after
    # Behind what came in meanwhile
    world.call("DEL", keys.again(S, QUEUE_GROUP))
    world.call("DEL", ORDER)
    world.call("RPUSH", ORDER, "m9")
    assert requeue(bury(world, {ORDER_HEADER: "k"})) == [(True, None)]
    after = world.keys()
    assert (
        after.items() >= counted(1).items()
        and '"id","m1"' in after[ORDER][1]
        and keys.again(S, QUEUE_GROUP) not in after
    )
    assert not world.call("EXISTS", *LETTER_KEYS)


def test_a_requeued_letter_locks_its_call_unless_another_does(world: World) -> None:
    headers = {UNIQUE_HEADER: "c"}
    assert requeue(bury(world, headers)) == [(True, None)]
    assert world.keys()[LOCK] == "m1" and world.keys()[f"{LOCK} ttl"] == 86_400
    world.call("SET", LOCK, "m9", "EX", 50)
    before = world.keys()[keys.again(S, QUEUE_GROUP)]
    ((done, problem),) = requeue(bury(world, headers))
    assert not done and problem == "m1: the same call of its unique task waits or runs already"
    after = world.keys()
    assert after[LOCK] == "m9" and after[keys.again(S, QUEUE_GROUP)] == before
    assert world.call("EXISTS", *LETTER_KEYS) == 2


def test_ties_are_read_from_what_is_no_message_any_more() -> None:
    good = [b"id", b"m1", b"headers", b'{"ts-order":"k","ts-unique":"c"}', b"attempt", b"x"]
    assert ties_of_fields(S, good) == order("m1") + unique("m1")
    for fields in ([b"a"], [b"headers", b"["], [b"headers", b"[1]"], [b"id", b"\xff", b"headers", b"{}"], []):
        assert ties_of_fields(S, fields) == ()
    assert ties_of(S, "m1", {ORDER_HEADER: 5, UNIQUE_HEADER: None}) == ()


# -- orders whose turn is that of a message that is gone --------------------------------------------------------------

OWN = keys.again(S, QUEUE_GROUP)


def stuck(world: World) -> None:
    """Two orders in a queue that has nothing else."""
    world.group(QUEUE_GROUP)
    world.group(QUEUE_GROUP, OWN)
    for key, waiting in ((ORDER, ("m7", "m8")), (OTHER, ("m9",))):
        world.call("RPUSH", key, "gone", *map(waits, waiting))
        for field in ("", key):
            world.call("HINCRBY", ORDERED, field, len(waiting))


def unstick(world: World) -> int:
    return turns.unstick(world.call, S)


def held(world: World) -> None:
    world.add(S, "1-1", "m1")
    world.read(ME, S, 1, QUEUE_GROUP)


BUSY: list[tuple[str, Callable[[World], Any]]] = [
    ("unread", do("XADD", S, "1-1", "id", "m1")),
    ("put back", do("XADD", OWN, "1-1", "id", "m1")),
    ("held", held),
    ("delayed", do("ZADD", keys.delayed(S, QUEUE_GROUP), 1, "x")),
    ("ranked", do("ZADD", keys.ranked(S, QUEUE_GROUP), 1, "x")),
    ("parked", do("HSET", keys.parking(S), "x", 1)),
    ("of no group yet", then(do("XGROUP", "DESTROY", S, QUEUE_GROUP), do("XADD", S, "1-1", "id", "m1"))),
]

UNSTICK = [
    Case("nothing waits", [], unstick, 0),
    *(Case(f"there is one more, {word}", [stuck, more], unstick, 0) for word, more in BUSY),
    Case(
        "nothing else is there",
        [stuck, do("DEL", OTHER)],
        unstick,
        1,
        {OWN: ["* id m7"], ORDER: ["m7", waits("m8")], **counted(1), f"{ORDERED} {OTHER}": None},
    ),
    Case(
        "the stream is gone as a whole",
        [stuck, do("DEL", OTHER), do("DEL", S), do("DEL", OWN)],
        unstick,
        1,
        {OWN: ["* id m7"], ORDER: ["m7", waits("m8")], **counted(1), f"{ORDERED} {OTHER}": None},
    ),
    Case(
        "what was done is kept for a while, and is nothing that waits",
        [
            stuck,
            held,
            do("XACK", S, QUEUE_GROUP, "1-1"),
            do("DEL", OTHER),
        ],
        unstick,
        1,
        {OWN: ["* id m7"], ORDER: ["m7", waits("m8")], **counted(1), f"{ORDERED} {OTHER}": None},
    ),
]


@cases(*UNSTICK)
def test_unstick(case: Case, world: World) -> None:
    check(case, world)


def test_all_orders_that_are_stuck_go_on(world: World) -> None:
    stuck(world)
    assert turns.waiting(world.call, S) == 3
    assert unstick(world) == 2 and turns.waiting(world.call, S) == 1
    assert sorted(world.keys()[OWN]) == ["* id m7", "* id m9"]
    assert unstick(world) == 0
