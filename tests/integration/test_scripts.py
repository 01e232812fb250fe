"""The scripts of a consumer and of an operator: register, renew, commit, publish, choose; and how any is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from helpers import eventually
from script_cases import (
    AGAIN,
    CONTROL,
    DEATHS,
    DELAYED,
    DIED_BEFORE,
    LEASES,
    ME,
    MONTH,
    WATCHED,
    Case,
    G,
    S,
    World,
    cases,
    check,
    commit,
    do,
    lease,
    seed,
    seed_corpse,
    seed_with_other_group,
    then,
)

from taskstream import keys
from taskstream.broker import Broker, revocations
from taskstream.broker.group import Batch, Renewal
from taskstream.message import Message

ALL_MOVES = (
    ("ack", False, "1-1"),
    ("ack", True, "2-1"),
    ("retry", False, "1-2", "m2", 50_000, '["id","m2","attempt","2"]'),
)
RETRY = commit(("retry", False, "1-1", "m1", 50_000, '["id","m1","attempt","2"]'))
ACK = commit(("ack", False, "1-1"))
GIVE_BACK = commit(("give_back", False, "1-1", "m1", '["id","m1","sent","7"]'))
BURY = commit(("bury", False, "1-1", "m1", '{"why":"ü"}'))

GONE_1 = {S: ["1-2 id m2", "1-3 id m3"], f"{S} g/me": ["1-2 x1"]}
DELAYED_1 = {f'{DELAYED} ["id","m1","attempt","2"]': "+50s"}

COMMIT = [
    Case("ack", [seed], ACK, (True, False), GONE_1),
    Case(
        "ack of the own stream",
        [seed],
        commit(("ack", True, "2-1")),
        (True, False),
        {AGAIN: [], f"{AGAIN} g/me": []},
    ),
    Case("retry", [seed], RETRY, (True, False), GONE_1 | DELAYED_1),
    Case("give back", [seed], GIVE_BACK, (True, False), GONE_1 | {AGAIN: ["2-1 id m4", "* id m1 sent 7"]}),
    Case(
        "bury",
        [seed, DIED_BEFORE],
        BURY,
        (True, False),
        GONE_1 | {"ts:{jobs}:dead:g m1": "+0s", "ts:{jobs}:letters:g m1": '{"why":"ü"}', "ts:{jobs}:deaths:g m1": None},
    ),
    Case(
        "ack of one that others died of",
        [seed, DIED_BEFORE],
        commit(("ack_suspect", False, "1-1", "m1")),
        (True, False),
        GONE_1 | {"ts:{jobs}:deaths:g m1": None},
    ),
    Case(
        "a retry keeps the deaths",
        [seed, DIED_BEFORE],
        RETRY,
        (True, False),
        GONE_1 | DELAYED_1,
    ),
    *(
        Case(
            f"why an earlier run was ended is forgotten with {word}",
            [seed, do("HSET", DEATHS, "m1", 2, "m1 why", "too long")],
            act,
            (True, False),
            changes | {f"{DEATHS} m1 why": None},
        )
        for word, act, changes in (
            ("a retry", RETRY, GONE_1 | DELAYED_1),
            ("an ack", commit(("ack_suspect", False, "1-1", "m1")), GONE_1 | {f"{DEATHS} m1": None}),
        )
    ),
    Case(
        "every kind of move from the own stream",
        [seed, do("XADD", AGAIN, "2-2", "id", "m5"), lambda world: world.read(ME, AGAIN, 1)],
        commit(("bury", True, "2-1", "m4", "{}"), ("retry", True, "2-2", "m5", 20_000, '["id","m5"]')),
        (True, False),
        {
            AGAIN: [],
            f"{AGAIN} g/me": [],
            "ts:{jobs}:dead:g m4": "+0s",
            "ts:{jobs}:letters:g m4": "{}",
            f'{DELAYED} ["id","m5"]': "+20s",
        },
    ),
    Case(
        "several in one",
        [seed],
        commit(*ALL_MOVES),
        (True, False),
        {
            S: ["1-3 id m3"],
            f"{S} g/me": [],
            AGAIN: [],
            f"{AGAIN} g/me": [],
            f'{DELAYED} ["id","m2","attempt","2"]': "+50s",
        },
    ),
    Case(
        "an expired lease that nobody took still commits",
        [seed, lambda w: w.lease(ME, -60)],
        ACK,
        (True, False),
        GONE_1,
    ),
    Case("told that somebody waits", [seed, do("SET", WATCHED, 1, "EX", 100)], ACK, (True, True), GONE_1),
    *(
        Case(f"lease {word}: {kind} changes nothing", [seed, mark], act, (False, False))
        for kind, act in (("ack", ACK), ("retry", RETRY), ("give back", GIVE_BACK), ("bury", BURY))
        for word, mark in (
            ("missing", do("ZREM", LEASES, ME)),
            ("given up", do("ZADD", LEASES, 1, ME)),
            ("taken", do("ZADD", LEASES, 0, ME)),
            ("given up and taken", do("ZADD", LEASES, -1, ME)),
        )
    ),
    *(
        Case(f"{kind} again after its reply was lost", [seed, then(act)], act, (True, False))
        for kind, act in (
            ("ack", ACK),
            ("retry", RETRY),
            ("give back", GIVE_BACK),
            ("bury", BURY),
            ("all", commit(*ALL_MOVES)),
        )
    ),
    Case(
        "a retry that was promoted before the repeated commit stays one",
        [seed, then(commit(("retry", False, "1-1", "m1", 0, '["id","m1"]')), lambda w: w.me.promote(w.call, 10))],
        commit(("retry", False, "1-1", "m1", 0, '["id","m1"]')),
        (True, False),
    ),
    *(
        Case(
            f"{kind} leaves the entry for another group",
            [seed_with_other_group],
            act,
            (True, False),
            {f"{S} g/me": ["1-2 x1"]} | more,
        )
        for kind, act, more in (
            ("ack", ACK, {}),
            ("retry", RETRY, DELAYED_1),
            ("give back", GIVE_BACK, {AGAIN: ["2-1 id m4", "* id m1 sent 7"]}),
            ("bury", BURY, {"ts:{jobs}:dead:g m1": "+0s", "ts:{jobs}:letters:g m1": '{"why":"ü"}'}),
        )
    ),
    *(
        Case(
            f"{kind} where the only group left is another one",
            [seed_with_other_group, do("XGROUP", "DESTROY", S, G)],
            act,
            (True, False),
        )
        for kind, act in (("ack", ACK), ("retry", RETRY), ("bury", BURY))
    ),
    Case("an empty stream and an empty batch", [lambda w: w.lease(ME, 60)], commit(), (True, False)),
]

NEW = {
    f"{LEASES} me": "+30s",
    f"{S} g/me": [],
    f"{AGAIN} g/me": [],
}
REGISTER = [
    Case(
        "on nothing",
        [],
        lambda w: w.me.register(w.call),
        True,
        NEW | {S: [], AGAIN: [], f"{S} g read": "0-0", f"{AGAIN} g read": "0-0"},
    ),
    Case(
        "after messages were sent: none is skipped",
        [lambda w: w.add(S, "1-1", "m1")],
        lambda w: w.me.register(w.call),
        True,
        NEW | {AGAIN: [], f"{S} g read": "0-0", f"{AGAIN} g read": "0-0"},
    ),
    Case(
        "into a group that exists",
        [seed_corpse(60), do("ZREM", LEASES, ME)],
        lambda w: w.me.register(w.call),
        True,
        {
            f"{LEASES} me": "+30s",
        },
    ),
    *(
        Case(
            f"a name whose lease is {score}",
            [seed, lease(score)],
            lambda w: w.me.register(w.call),
            False,
        )
        for score in (60, -60, 1, 0, -1)
    ),
]


def renewed(world: World) -> Renewal:
    """Without the server's time, once that is seen to be right."""
    before = world.now_ms()
    found = world.me.renew(world.call)
    assert before <= found.server_ms <= world.me.time_ms(world.call) <= world.now_ms()
    return found._replace(server_ms=0)


def renew(held: bool, version: int = 0, choice: str | None = None) -> Renewal:
    return Renewal(held, version, choice)


RENEW = [
    Case("a live lease", [seed], renewed, renew(True), {f"{LEASES} me": "+30s"}),
    Case(
        "an expired lease that nobody took",
        [seed, lambda w: w.lease(ME, -60)],
        renewed,
        renew(True),
        {f"{LEASES} me": "+30s"},
    ),
    *(
        Case(
            f"a lease marked {score}",
            [seed, lease(score)],
            renewed,
            renew(False),
        )
        for score in (1, 0, -1)
    ),
    Case("a missing lease", [seed, do("ZREM", LEASES, ME)], renewed, renew(False)),
    Case(
        "brings the operator's choice along",
        [seed, do("HSET", CONTROL, "state", "stopped", "version", 7)],
        renewed,
        renew(True, 7, "stopped"),
        {f"{LEASES} me": "+30s"},
    ),
    Case(
        "brings the choice also where the lease is lost",
        [seed, do("HSET", CONTROL, "state", "stopped", "version", 7), do("ZREM", LEASES, ME)],
        renewed,
        renew(False, 7, "stopped"),
    ),
    Case(
        "what is no choice costs nobody a lease",
        [seed, do("HSET", CONTROL, "state", "\u00fc", "version", "text")],
        renewed,
        renew(True),
        {f"{LEASES} me": "+30s"},
    ),
]


def publish_once(unique: str, message: str = "m1") -> Callable[[World], str]:
    def act(world: World) -> str:
        broker = Broker(world.url)
        try:
            return broker.publish_once(S, Message(message, "n", b"{}"), unique)
        finally:
            broker.close()

    return act


def choose(state: str) -> Callable[[World], int]:
    def act(world: World) -> int:
        broker = Broker(world.url)
        try:
            return broker.set_state(S, G, state)
        finally:
            broker.close()

    return act


SENT: dict[str, Any] = {
    S: ["* v 1 id m1 name n body {}"],
    "ts:{jobs}:published:k": "m1",
    "ts:{jobs}:published:k ttl": 86_400,
}
OPERATOR = [
    Case("publish once", [], publish_once("k"), "m1", SENT),
    Case("publish under a known key", [then(publish_once("k"))], publish_once("k", "other"), "m1"),
    Case(
        "publish under another key",
        [then(publish_once("k"))],
        publish_once("l"),
        "m1",
        {
            S: SENT[S] * 2,
            "ts:{jobs}:published:l": "m1",
            "ts:{jobs}:published:l ttl": 86_400,
        },
    ),
    Case("choose", [], choose("stopped"), 1, {f"{CONTROL} state": "stopped", f"{CONTROL} version": "1"}),
    Case("choose the same", [then(choose("stopped"))], choose("stopped"), 1),
    Case(
        "choose the other",
        [then(choose("stopped"))],
        choose("started"),
        2,
        {f"{CONTROL} state": "started", f"{CONTROL} version": "2"},
    ),
]


def test_a_version_that_is_no_number_gives_way_to_a_larger_one_than_before(world: World) -> None:
    broker = Broker(world.url)
    for word in ("text", "1.5", "-1", "9" * 30):
        # Given something that nobody counted, and workers that know of a choice
        broker.call("DEL", CONTROL)
        known = broker.set_state(S, G, "stopped")
        broker.call("HSET", CONTROL, "version", word)
        # Then it reads as none or any, and what is chosen next is news to all
        assert broker.choice(S, G)[1] == "stopped"
        assert broker.set_state(S, G, "started") > known + 1
        broker.call("HSET", CONTROL, "version", word, "revokes", word)
        assert revocations.revoke(broker, S, G, ["m1"], False) > known + 1
        assert broker.choice(S, G)[0] > known + 1
    broker.close()


@cases(*COMMIT)
def test_commit(case: Case, world: World) -> None:
    check(case, world)


@cases(*REGISTER)
def test_register(case: Case, world: World) -> None:
    check(case, world)


@cases(*RENEW)
def test_renew(case: Case, world: World) -> None:
    check(case, world)


@cases(*OPERATOR)
def test_operator(case: Case, world: World) -> None:
    check(case, world)


def test_a_commit_announces_to_those_who_wait(world: World) -> None:
    seed(world)
    with redis.Redis.from_url(world.url) as client, client.pubsub() as listener:
        listener.subscribe("ts:{jobs}:done")
        eventually(lambda: listener.get_message(timeout=1.0))
        # Nobody watches: nothing is said
        assert commit(("ack", False, "1-1"), ids="m1")(world) == (True, False)
        world.call("SET", WATCHED, 1, "EX", 100)
        # Somebody watches, but the lease is lost: nothing is said either
        world.call("ZADD", LEASES, 0, ME)
        assert commit(("ack", False, "1-2"), ids="m2")(world) == (False, False)
        world.lease(ME, 60)
        assert commit(("ack", False, "1-2"), ids="m2 m4")(world) == (True, True)
        assert listener.get_message(timeout=5.0)["data"] == b"m2 m4"


def test_a_batch_of_a_thousand_of_each(world: World) -> None:
    for number in range(2000):
        world.add(S, f"1-{number + 1}", f"m{number}")
    assert world.me.register(world.call)
    entries = world.me.read(world.call, 2000, None)
    assert len(entries) == 2000
    batch = Batch()
    for entry in entries[:1000]:
        batch.ack(False, entry.entry_id)
    assert world.me.commit(world.call, batch, "") == (True, False)
    batch = Batch()
    for n, entry in enumerate(entries[1000:]):
        batch.retry(False, entry.entry_id, f"m{n}", 1000, f'["id","m{n}"]')
    assert world.me.commit(world.call, batch, "") == (True, False)
    assert world.call("XLEN", S) == 0
    assert world.call("ZCARD", DELAYED) == 1000


def test_dead_letters_past_their_retention_are_forgotten(world: World) -> None:
    dead, letters = keys.dead(S, G), keys.letters(S, G)
    now = world.now_ms()
    for age_s, letter in ((MONTH + 1, "oldest"), (MONTH, "old"), (MONTH - 100, "kept")):
        world.call("ZADD", dead, now - age_s * 1000, letter)
        world.call("HSET", letters, letter, "{}")
    assert world.me.forget(world.call, MONTH, 1) == 1
    assert world.call("HKEYS", letters) == [b"old", b"kept"]
    assert world.me.forget(world.call, MONTH, 10) == 1
    assert world.me.forget(world.call, MONTH, 10) == 0
    assert world.call("ZRANGE", dead, 0, -1) == world.call("HKEYS", letters) == [b"kept"]


def test_a_script_that_the_server_forgot_is_sent_again(world: World) -> None:
    world.call("SCRIPT", "FLUSH")
    assert world.me.register(world.call)
    world.call("SCRIPT", "FLUSH")
    assert world.me.renew(world.call).held


def test_a_stream_key_of_another_type_is_told(world: World) -> None:
    world.call("SET", S, "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        world.me.register(world.call)
    assert world.keys() == {S: "x"}
