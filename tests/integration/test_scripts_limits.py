"""What Redis keeps of limits and schedules: slots, times that were told, messages that wait, ticks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from script_cases import AGAIN, ME, MONTH, Case, S, World, cases, commit, do, seed, then
from script_cases import check as check_case

from taskstream import keys
from taskstream.broker import limits, ticks
from taskstream.broker.group import ConsumerGroup
from taskstream.broker.limits import Answer
from taskstream.handler import QUEUE_GROUP
from taskstream.limits import Limit
from taskstream.schedule import tick_id

L = "jobs.work"
SLOTS, PARKED, PARKING, RATE = keys.slots(S, L), keys.parked(S, L), keys.parking(S), keys.rate(S, L)


@pytest.fixture
def world(broker_url: str) -> World:
    return World(broker_url)


def waits(message: str) -> str:
    return f'["id","{message}"]'


def full(*parked: str, most: int = 1) -> list[Callable[[World], Any]]:
    """m1 has the only slot, ``parked`` wait for it."""
    found: list[Callable[[World], Any]] = [seed, do("HSET", SLOTS, "m1", "1 1-1"), do("EXPIRE", SLOTS, MONTH)]
    if parked:
        found += [do("RPUSH", PARKED, *map(waits, parked)), do("HSET", PARKING, L, most)]
    return found


def tied(message: str, most: int = 1) -> tuple[Any, ...]:
    return (limits.tie(S, L, most, message),)


GONE_1 = {S: ["1-2 id m2", "1-3 id m3"], f"{S} g/me": ["1-2 x1"]}
RETRY = ("retry", False, "1-1", "m1", 50_000, waits("m1"))
DELAYED_1 = {f"{keys.delayed(S, 'g')} {waits('m1')}": "+50s"}
ENDS: list[tuple[str, tuple[Any, ...], dict[str, Any], list[str]]] = [
    ("done", ("ack_suspect", False, "1-1", "m1"), {}, []),
    ("tried again", RETRY, DELAYED_1, []),
    ("given back", ("give_back", False, "1-1", "m1", waits("m1")), {}, ["* id m1"]),
    (
        "dead",
        ("bury", False, "1-1", "m1", "{}"),
        {f"{keys.dead(S, 'g')} m1": "+0s", f"{keys.letters(S, 'g')} m1": "{}"},
        [],
    ),
]


@cases(
    *(
        Case(
            f"{name}: the first that waits gets the slot",
            full("m7", "m8"),
            commit((*move, tied("m1"))),
            (True, False),
            {
                **GONE_1,
                **changes,
                AGAIN: ["2-1 id m4", *put_back, "* id m7"],
                f"{SLOTS} m1": None,
                f"{SLOTS} m7": "2 *",
                PARKED: [waits("m8")],
            },
        )
        for name, move, changes, put_back in ENDS
    ),
    Case(
        "the last that waits leaves nothing behind",
        full("m7"),
        commit((*ENDS[0][1], tied("m1"))),
        (True, False),
        {
            **GONE_1,
            AGAIN: ["2-1 id m4", "* id m7"],
            f"{SLOTS} m1": None,
            f"{SLOTS} m7": "2 *",
            PARKED: None,
            f"{PARKING} {L}": None,
        },
    ),
    Case(
        "nobody waits",
        full(),
        commit((*ENDS[0][1], tied("m1"))),
        (True, False),
        {**GONE_1, f"{SLOTS} m1": None, f"{SLOTS} ttl": None},
    ),
    Case(
        "a slot that the message has elsewhere by now is left alone",
        [*full("m7"), do("HSET", SLOTS, "m1", "2 9-9")],
        commit((*ENDS[0][1], tied("m1"))),
        (True, False),
        GONE_1,
    ),
    Case(
        "more slots than before are given at once",
        full("m7", "m8", "m9"),
        commit((*ENDS[0][1], tied("m1", most=2))),
        (True, False),
        {
            **GONE_1,
            AGAIN: ["2-1 id m4", "* id m7", "* id m8"],
            f"{SLOTS} m1": None,
            f"{SLOTS} m7": "2 *",
            f"{SLOTS} m8": "2 *",
            PARKED: [waits("m9")],
        },
    ),
    Case(
        "what waits and is no message becomes readable all the same, without a slot",
        [*full(), do("RPUSH", PARKED, "nonsense", waits("m7")), do("HSET", PARKING, L, 1)],
        commit((*ENDS[0][1], tied("m1"))),
        (True, False),
        {
            **GONE_1,
            AGAIN: ["2-1 id m4", "* unreadable nonsense", "* id m7"],
            f"{SLOTS} m1": None,
            f"{SLOTS} m7": "2 *",
            PARKED: None,
            f"{PARKING} {L}": None,
        },
    ),
    Case(
        "without a slot a message is parked, behind the others",
        full("m7"),
        commit(("park", False, "1-2", "m2", waits("m2"), tied("m2"))),
        (True, False),
        {S: ["1-1 id m1", "1-3 id m3"], f"{S} g/me": ["1-1 x1"], PARKED: [waits("m7"), waits("m2")]},
    ),
    Case(
        "the first to be parked says how many slots there are",
        full(),
        commit(("park", False, "1-2", "m2", waits("m2"), tied("m2"))),
        (True, False),
        {
            S: ["1-1 id m1", "1-3 id m3"],
            f"{S} g/me": ["1-1 x1"],
            PARKED: [waits("m2")],
            f"{PARKING} {L}": "1",
        },
    ),
    Case(
        "one that got free meanwhile is taken",
        [seed],
        commit(("park", False, "1-2", "m2", waits("m2"), tied("m2"))),
        (True, False),
        {
            S: ["1-1 id m1", "1-3 id m3"],
            f"{S} g/me": ["1-1 x1"],
            AGAIN: ["2-1 id m4", "* id m2"],
            f"{SLOTS} m2": "2 *",
            f"{SLOTS} ttl": MONTH,
        },
    ),
    Case(
        "a commit that is repeated frees nothing twice",
        [*full("m7", "m8"), then(commit((*RETRY, tied("m1"))))],
        commit((*RETRY, tied("m1"))),
        (True, False),
    ),
    Case(
        "whoever lost its lease frees nothing",
        [*full("m7"), do("ZADD", keys.leases(S, "g"), 0, ME)],
        commit((*RETRY, tied("m1"))),
        (False, False),
    ),
)
def test_commits_of_messages_with_a_slot(case: Case, world: World) -> None:
    check_case(case, world)


def ask(world: World, message: str, entry: str = "1-1", told: str = "", **limit: Any) -> Answer:
    return limits.ask(world.call, S, L, Limit(**limit), message, (False, entry), told)


# -- slots ---------------------------------------------------------------------------------------------------


def test_slots_are_given_until_all_are_taken(world: World) -> None:
    assert [ask(world, f"m{number}", most=2).go for number in range(3)] == [True, True, False]
    assert ask(world, "m2", most=2) == Answer(False, full=True)
    # Who has one is given it again: a message that was taken over, or whose answer got lost.
    assert ask(world, "m0", "7-7", most=2).go
    assert world.call("HGET", SLOTS, "m0") == b"1 7-7"
    assert ask(world, "m5", most=3).go


# -- the rate ------------------------------------------------------------------------------------------------


def test_who_may_not_start_now_is_told_times_that_are_far_enough_apart(world: World) -> None:
    # Given 30 messages, 20 of which may start in a second
    answers = [ask(world, f"m{number}", apart_us=50_000) for number in range(30)]
    # Then the first starts at once, the next ones wait where they are, the others are told when to come
    now = [answer for answer in answers if answer.go]
    later = [answer for answer in answers if not answer.go]
    assert answers == now + later and answers[0].wait_us == 0
    assert all(answer.wait_us <= 250_000 for answer in now) and len(now) >= 5
    # each 50 ms after the one before.
    times = [int(answer.at) for answer in later]
    assert [after - before for before, after in pairwise(times)] == [50_000] * (len(times) - 1)
    last = int(world.call("HGET", RATE, "last"))
    assert times[0] - last == 50_000
    assert times[-1] - times[0] == 50_000 * (len(later) - 1)


def test_who_comes_when_it_was_told_to_starts_and_takes_no_other_time(world: World) -> None:
    ask(world, "m0", apart_us=400_000)
    told = ask(world, "m1", apart_us=400_000)
    assert not told.go
    tail = world.call("HGET", RATE, "tail")
    # Too early (its delay was undone, say), it is told the same time again.
    again = ask(world, "m1", told=told.at, apart_us=400_000)
    assert again.at == told.at or again.go
    past(world, 1_000_000)
    assert ask(world, "m1", told=str(int(told.at) - 1_000_000), apart_us=400_000) == Answer(True)
    assert int(world.call("HGET", RATE, "tail")) >= int(tail) - 1_000_000


def past(world: World, micros: int) -> None:
    """As if so much time had passed: everything that is kept lies that far back."""
    for field in ("tail", "last"):
        known = world.call("HGET", RATE, field)
        if known is not None:
            world.call("HSET", RATE, field, int(known) - micros)


def test_what_comes_all_at_once_after_an_outage_starts_no_faster(world: World) -> None:
    # Given ten messages that were told to come in the last second, and nobody was there
    told = [ask(world, f"m{number}", apart_us=100_000).at for number in range(13)][-10:]
    past(world, 3_000_000)
    late = [str(int(at) - 3_000_000) for at in told if at]
    assert len(late) == 10
    # When they come together
    answers = [ask(world, f"m{number}", told=at, apart_us=100_000) for number, at in enumerate(late)]
    # Then those start that may, and the others are told new times
    assert answers[0] == Answer(True)
    starts = [answer for answer in answers if answer.go]
    times = [int(answer.at) for answer in answers if not answer.go]
    assert len(starts) <= 4 and len(times) >= 6
    assert all(after - before >= 100_000 for before, after in pairwise(times))
    assert times[0] - int(world.call("HGET", RATE, "last")) >= 100_000


@pytest.mark.parametrize("told", ["9000000000000000", "1"])
def test_a_time_that_nobody_was_told_is_of_no_use(world: World, told: str) -> None:
    ask(world, "m0", apart_us=3_600_000_000)
    answer = ask(world, "m1", told=told, apart_us=3_600_000_000)
    assert not answer.go and 3_500_000_000 < answer.wait_us <= 3_600_000_000


@pytest.mark.parametrize("word", ["text", "nan", "inf", "-inf", "1e300", "-5"])
def test_a_rate_that_says_no_time_holds_nobody_up(world: World, word: str) -> None:
    world.call("HSET", RATE, "tail", word, "last", word)
    assert ask(world, "m0", apart_us=1_000_000) == Answer(True)


def test_without_a_slot_no_time_is_taken_and_without_a_time_no_slot(world: World) -> None:
    both: dict[str, Any] = {"most": 1, "apart_us": 3_600_000_000}
    assert ask(world, "m0", **both).go
    rate = world.call("HGETALL", RATE)
    assert ask(world, "m1", **both).full and world.call("HGETALL", RATE) == rate
    world.call("DEL", SLOTS)
    assert ask(world, "m1", **both).at and not world.call("EXISTS", SLOTS)


def test_a_rate_is_forgotten_when_it_says_nothing_any_more(world: World) -> None:
    ask(world, "m0", apart_us=5_000_000)
    ask(world, "m1", apart_us=5_000_000)
    assert 10_000 < world.call("PTTL", RATE) <= 11_000


# -- what waits and is forgotten by all ----------------------------------------------------------------------


def member(world: World) -> ConsumerGroup:
    """A consumer of the queue's group that holds m1 of the stream and m4 of the group's own; one is done and kept."""
    me = ConsumerGroup(S, QUEUE_GROUP, ME, 30_000)
    me.register(world.call)
    world.add(S, "1-1", "m1")
    world.add(keys.again(S, QUEUE_GROUP), "2-1", "m4")
    world.add(keys.again(S, QUEUE_GROUP), "2-2", "done")
    assert len(me.read(world.call, 10, None)) == 3
    world.call("XACK", keys.again(S, QUEUE_GROUP), QUEUE_GROUP, "2-2")
    return me


@pytest.mark.parametrize(
    ("holder", "held"),
    [
        ("1 1-1", True),
        ("2 2-1", True),
        ("2 3-1", True),
        ("1 9-9", False),
        ("2 2-2", False),
        ("2 9-9", False),
        ("1 2-1", False),
        ("nonsense", False),
    ],
)
def test_a_slot_whose_message_nobody_holds_goes_to_who_waits(world: World, holder: str, held: bool) -> None:
    # Given one whose slot is said to be somewhere, of a message that is held, or waits to be read, or is not there
    member(world)
    world.add(keys.again(S, QUEUE_GROUP), "3-1", "m5")
    world.call("HSET", SLOTS, "m0", holder)
    world.call("EXPIRE", SLOTS, MONTH)
    world.call("RPUSH", PARKED, waits("m7"), waits("m8"))
    world.call("HSET", PARKING, L, 1)
    # When somebody looks after those that wait
    assert limits.parked_for(world.call, S) == [L]
    assert limits.unpark(world.call, S, L) == ((0, 0) if held else (1, 1))
    # Then the next has got the slot, if nobody has it
    assert world.call("LLEN", PARKED) == (2 if held else 1)
    assert world.call("HKEYS", SLOTS) == ([b"m0"] if held else [b"m7"])
    # and who got it keeps it while it waits to be read.
    assert limits.unpark(world.call, S, L) == (0, 0)


def test_nobody_that_waits_is_forgotten(world: World) -> None:
    member(world)
    world.call("HSET", PARKING, L, 5)
    world.call("RPUSH", PARKED, waits("m7"), "nonsense", waits("m8"))
    assert limits.unpark(world.call, S, L) == (0, 3)
    assert limits.parked_for(world.call, S) == [] and not world.call("EXISTS", PARKED)
    assert world.call("XLEN", keys.again(S, QUEUE_GROUP)) == 5


def test_where_the_group_is_gone_nobody_holds_anything(world: World) -> None:
    world.call("HSET", SLOTS, "m0", "1 1-1")
    world.call("RPUSH", PARKED, waits("m7"))
    world.call("HSET", PARKING, L, 1)
    assert limits.unpark(world.call, S, L) == (1, 1)


# -- ticks ---------------------------------------------------------------------------------------------------


def test_a_tick_is_due_until_it_was_launched(world: World) -> None:
    now = world.now_ms()
    at = [now - 60_000 + 10_000 * number for number in range(5)]
    # The first that is asked for is where the schedule begins.
    assert ticks.ask(world.call, S, "a", at[1]) == ticks.SETTLED
    assert [ticks.ask(world.call, S, "a", tick) for tick in at] == [0, 0, 1, 1, 1]
    world.call("SET", keys.published(S, keys.unique_id(tick_id("a", at[3]))), "id", "EX", 86_400)
    ticks.launched(world.call, S, "a", at[3])
    assert [ticks.ask(world.call, S, "a", tick) for tick in at] == [0, 0, 0, 0, 1]
    # It is said again by one that was slow.
    ticks.launched(world.call, S, "a", at[2])
    assert ticks.ask(world.call, S, "a", at[3]) == ticks.SETTLED
    # Its id is remembered only for as long as somebody may still be about to launch it.
    assert 3_500 < world.call("TTL", keys.published(S, keys.unique_id(tick_id("a", at[3])))) <= 3_600


def test_a_tick_of_a_clock_that_is_ahead_is_not_due(world: World) -> None:
    ticks.ask(world.call, S, "a", world.now_ms() - 1000)
    assert ticks.ask(world.call, S, "a", world.now_ms() + 60_000) == ticks.EARLY
    assert ticks.ask(world.call, S, "new", world.now_ms() + 60_000) == ticks.EARLY
    assert world.call("HKEYS", keys.ticks(S)) == [b"a"]


def test_a_schedule_that_nobody_has_any_more_is_forgotten(world: World) -> None:
    now = world.now_ms()
    world.call("HSET", keys.ticks(S), "old", f"5 {now - 31 * 86_400_000}", "young", f"5 {now - 86_400_000}", "odd", "?")
    ticks.ask(world.call, S, "new", now)
    assert sorted(world.call("HKEYS", keys.ticks(S))) == [b"new", b"young"]
