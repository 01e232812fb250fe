"""Every state of a message times every script: where it is afterwards, and that nothing else was touched.

What each script does to each key is in the other test_scripts files; here no pair may be missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from script_cases import AGAIN, DEATHS, DELAYED, LEASE_MS, LEASES, G, S, World, commit

from taskstream import keys
from taskstream.broker import Broker
from taskstream.broker.group import ConsumerGroup
from taskstream.broker.script import Script
from taskstream.message import Message

DEAD_IDS, LETTERS = keys.dead(S, G), keys.letters(S, G)
FIELDS = '["id","m1"]'
ORDER, ORDERED = keys.order(S, "k"), keys.ordered(S)
OTHER, LOST = "other", "lost"
"""Who else may hold the message, and one that lost its lease and does not know."""


def held_by(consumer: str, score: int) -> Callable[[World], None]:
    def build(world: World) -> None:
        in_stream(world)
        world.read(consumer, S, 1)
        world.lease(consumer, score)

    return build


def in_stream(world: World) -> None:
    world.add(S, "1-1", "m1")


def elsewhere(put: Callable[[World], Any]) -> Callable[[World], None]:
    """The group is through with the entry of the main stream, and the message is at ``put``."""

    def build(world: World) -> None:
        in_stream(world)
        world.read("me", S, 1)
        world.call("XACK", S, G, "1-1")
        put(world)

    return build


def bury(world: World) -> None:
    world.call("ZADD", DEAD_IDS, world.now_ms() - 1000, "m1")
    world.call("HSET", LETTERS, "m1", "letter")


def wait_for_turn(world: World) -> None:
    world.call("RPUSH", ORDER, "m0", FIELDS)
    world.call("HSET", ORDERED, "", 1, ORDER, 1)


def grace(world: World) -> None:
    held_by(OTHER, 60)(world)
    world.call("ZADD", LEASES, world.now_ms() - 60_000 + 0.5, OTHER)


STATES: dict[str, tuple[str, Callable[[World], Any]]] = {
    "waiting": ("waiting", in_stream),
    "waiting again": ("again", elsewhere(lambda world: world.add(AGAIN, "2-1", "m1"))),
    "delayed": ("delayed", elsewhere(lambda world: world.delay(FIELDS, 60))),
    "delayed and due": ("delayed", elsewhere(lambda world: world.delay(FIELDS, -10))),
    "waiting for its turn": ("turn", elsewhere(wait_for_turn)),
    "held by me": ("me", held_by("me", 60)),
    "held by another that lives": (OTHER, held_by(OTHER, 60)),
    "held by one whose lease ran out": (OTHER, held_by(OTHER, -60)),
    "held by one that was given up": (OTHER, held_by(OTHER, 1)),
    "held by one that was taken": (OTHER, held_by(OTHER, 0)),
    "held by one that was given up and taken": (OTHER, held_by(OTHER, -1)),
    "held under a lease of grace that ran out": (OTHER, grace),
    "dead": ("dead", elsewhere(bury)),
    "done": ("done", elsewhere(lambda world: None)),
}
"""State -> the message's place, and what makes it."""

DEAD_OWNERS = [name for name in STATES if name.startswith(("held by one", "held under"))]


def end(consumer: str, method: str, *rest: Any) -> Callable[[World], Any]:
    """A commit by ``consumer`` of the first entry, which it may have held and ended before; a lost one tries any."""

    def act(world: World) -> Any:
        world.me = ConsumerGroup(S, G, consumer, LEASE_MS)
        commit((method, False, "1-1", *rest))(world)
        if consumer == LOST:
            commit((method, True, "2-1", *rest))(world)

    return act


def claim(world: World) -> None:
    world.me.claim(world.call, OTHER, float(world.call("ZSCORE", LEASES, OTHER) or 0), 10)


def release(world: World) -> None:
    ConsumerGroup(S, G, OTHER, LEASE_MS).release(world.call, {"m1": ""})


def absolve(world: World) -> None:
    ConsumerGroup(S, G, OTHER, LEASE_MS).absolve(world.call, [(False, "1-1", "m1")])


def letters(name: str, *rest: str) -> Callable[[World], Any]:
    where = [DEAD_IDS, LETTERS, AGAIN, DEATHS] if name == "requeue" else [DEAD_IDS, LETTERS]
    sha = hashlib.sha1(b"letter").hexdigest()
    return lambda world: Script(name).run(world.call, where, ["m1", sha, *rest])


def publish(world: World) -> None:
    broker = Broker(world.url)
    broker.publish_once(S, Message("m1", "n", b"{}"), "k")
    broker.close()


ALL_ENDS = {"ack": (), "ack_suspect": ("m1",), "give_back": ("m1", FIELDS), "bury": ("m1", "letter")}
SCRIPTS: dict[str, tuple[Callable[[World], Any], dict[str, str]]] = {
    "publish, once more": (publish, {}),
    "register": (lambda world: ConsumerGroup(S, G, "new", LEASE_MS).register(world.call), {}),
    "renew": (lambda world: world.me.renew(world.call), {}),
    "read": (lambda world: world.me.read(world.call, 10, None), {"waiting": "me", "waiting again": "me"}),
    "commit: ack": (end("me", "ack"), {"held by me": "done"}),
    "commit: ack of a suspect": (end("me", "ack_suspect", "m1"), {"held by me": "done"}),
    "commit: retry": (end("me", "retry", "m1", 50_000, FIELDS), {"held by me": "delayed"}),
    "commit: give back": (end("me", "give_back", "m1", FIELDS), {"held by me": "again"}),
    "commit: dead letter": (end("me", "bury", "m1", "letter"), {"held by me": "dead"}),
    **{f"commit by one that lost it: {kind}": (end(LOST, kind, *rest), {}) for kind, rest in ALL_ENDS.items()},
    "commit by one that lost it: retry": (end(LOST, "retry", "m1", 50_000, FIELDS), {}),
    "promote": (lambda world: world.me.promote(world.call, 10), {"delayed and due": "again"}),
    "sweep": (lambda world: world.me.sweep(world.call), {}),
    "claim": (claim, dict.fromkeys(DEAD_OWNERS, "me")),
    "release": (release, {}),
    "absolve": (absolve, {}),
    "trim": (lambda world: world.me.trim(world.call, 100), {}),
    "forget": (lambda world: world.me.forget(world.call, 0.5, 10), {"dead": "done"}),
    "requeue": (letters("requeue", "0", "2", "id", "m1"), {"dead": "again"}),
    "purge": (letters("purge"), {"dead": "done"}),
}
"""Script -> the call, and where it moves the message from which states; from all others nowhere."""


def places(world: World) -> list[str]:
    """Where the message is, for the group."""
    found = []
    for stream, unread in ((S, "waiting"), (AGAIN, "again")):
        last = next(row[7] for row in world.call("XINFO", "GROUPS", stream) if row[1] == G.encode())
        found += [unread] * len(world.call("XRANGE", stream, b"(" + last, "+"))
        found += [row[1].decode() for row in world.call("XPENDING", stream, G, "-", "+", 10)]
    found += ["delayed"] * world.call("ZCARD", DELAYED)
    found += ["turn"] * max(0, world.call("LLEN", ORDER) - 1)
    letters = world.call("HLEN", LETTERS)
    assert world.call("ZCARD", DEAD_IDS) == letters
    return found + ["dead"] * letters or ["done"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_in_every_state(world: World, name: str) -> None:
    act, moves = SCRIPTS[name]
    for state, (place, build) in STATES.items():
        world.call("FLUSHALL")
        world.me = ConsumerGroup(S, G, "me", LEASE_MS)
        assert world.me.register(world.call)
        world.group("h")
        world.call("XGROUP", "CREATECONSUMER", S, G, LOST)
        world.lease(LOST, 0)
        world.call("SET", keys.published(S, "k"), "m1", "EX", 100)
        build(world)
        assert places(world) == [place], state
        if name.startswith("commit: ") and place == OTHER:
            continue  # whoever lives never ends what it does not hold; XACK would not look
        act(world)
        assert places(world) == [moves.get(state, place)], f"{name} of a message that is {state}"
        assert world.call("XLEN", S) == 1, f"the other group has not read it: {state}"
