"""The scripts of priorities: what feed hands out in which order, what publish and promote put by, who hears of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
from script_cases import AGAIN, DELAYED, LEASES, RANKED, G, S, World

from taskstream import keys
from taskstream.broker import Broker, Envelope
from taskstream.broker.group import ConsumerGroup, Entry
from taskstream.broker.script import wake_call
from taskstream.errors import QueueFull
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, from_fields

LEVEL = 10**13


class Queue:
    """A group of two consumers, and messages for it: ``9a`` is of priority 9. Each is sent a millisecond later."""

    def __init__(self, world: World) -> None:
        self.call = world.call
        self.me, self.other = world.me, ConsumerGroup(S, G, "other", 30_000)
        assert self.me.register(self.call)
        assert self.other.register(self.call)
        self._clock = itertools.count(1_000)

    def rank(self, *messages: str) -> None:
        """Messages that wait by their priority."""
        for message in messages:
            sent = next(self._clock)
            fields = ["id", message, "priority", message[0], "sent", str(sent)]
            self.call("ZADD", RANKED, int(message[0]) * LEVEL + sent, json.dumps(fields))

    def put(self, *messages: str) -> None:
        """Messages in the stream."""
        for message in messages:
            self.call("XADD", S, f"{next(self._clock)}-1", "id", message)

    def come_back(self, *messages: str, sent: int | None = None) -> None:
        """Messages in the group's own stream."""
        for message in messages:
            words = ["id", message, "sent", next(self._clock) if sent is None else sent]
            self.call("XADD", AGAIN, "*", *words, *(() if message[0] == "5" else ("priority", message[0])))

    def feed(self, count: int = 1, turn: int = 0) -> list[str]:
        return ids(self.me.feed(self.call, count, turn).entries)

    def one_by_one(self, count: int = 100) -> list[str]:
        """What a worker with one slot gets, in order, until there is nothing more."""
        found: list[str] = []
        turn = 0
        for _ in range(count):
            fed = self.me.feed(self.call, 1, turn)
            found += ids(fed.entries)
            turn = fed.turn
            if not fed.entries:
                break
        return found

    def held(self) -> int:
        return int(self.call("XPENDING", S, G)[0]) + int(self.call("XPENDING", AGAIN, G)[0])

    def unread(self) -> int:
        """What is still to be handed out."""
        left = [self.other.read(self.call, 10_000, None), self.call("ZRANGE", RANKED, 0, -1)]
        return sum(map(len, left))


def ids(entries: Sequence[Entry]) -> list[str]:
    return [dict(zip(one.fields[::2], one.fields[1::2], strict=True))[b"id"].decode() for one in entries]


@pytest.fixture
def queue(world: World) -> Queue:
    return Queue(world)


def test_the_first_is_of_the_highest_priority_then_the_oldest(queue: Queue) -> None:
    queue.rank("9a", "0a")
    queue.put("5a")
    queue.rank("3a", "6a", "0b", "9b", "4a")
    queue.put("5b")
    assert queue.feed(9) == ["0a", "0b", "3a", "4a", "5a", "5b", "6a", "9a", "9b"]
    assert queue.feed(9) == []
    assert queue.held() == 9


def test_no_more_than_asked_for(queue: Queue) -> None:
    queue.put("5a", "5b", "5c")
    queue.rank("9a", "0a", "0b")
    assert [queue.feed(2), queue.feed(2), queue.feed(2)] == [["0a", "0b"], ["5a", "5b"], ["5c", "9a"]]
    assert (queue.held(), queue.unread()) == (6, 0)


def test_what_came_back_stands_where_its_priority_and_age_put_it(queue: Queue) -> None:
    queue.rank("0b", "9b")
    queue.put("5b")
    queue.come_back("9a", sent=3)
    queue.come_back("5a", sent=4)
    queue.come_back("0a", sent=5)
    assert queue.feed(10) == ["0a", "0b", "5a", "5b", "9a", "9b"]
    assert (queue.held(), queue.call("XLEN", AGAIN)) == (6, 5)


def test_what_came_back_without_a_time_is_as_old_as_its_entry(queue: Queue) -> None:
    queue.call("XADD", AGAIN, "77-1", "id", "5a")
    entries = queue.me.feed(queue.call, 1, 0).entries
    assert (entries[0].fields, entries[0].times) == ([b"id", b"5a", b"sent", b"77"], 1)


def test_what_says_the_same_twice_is_handed_out_twice(queue: Queue) -> None:
    queue.come_back("9a", "9a", "9a", sent=7)
    assert queue.feed(10) == ["9a", "9a", "9a"]


def test_a_flood_of_what_came_back_is_sorted_in_bit_by_bit(queue: Queue) -> None:
    for _ in range(1_200):
        queue.come_back("5a")
    queue.rank("0a")
    found = list(itertools.chain.from_iterable(queue.feed(2) for _ in range(4)))
    assert len(found) == 8
    assert "0a" in found
    assert queue.held() == 8
    assert queue.unread() == 1_201 - 8


def test_every_tenth_is_the_oldest_of_all(queue: Queue) -> None:
    queue.rank("9a")
    queue.put("5a")
    queue.rank("7a", *(f"0{number}" for number in range(40)))
    found = queue.one_by_one()
    assert [at for at, one in enumerate(found, 1) if one[0] != "0"] == [10, 20, 30]
    assert found[9::10][:3] == ["9a", "5a", "7a"]
    assert len(found) == 43


def test_the_tenth_is_counted_over_calls_and_within_one(queue: Queue) -> None:
    queue.rank("9a", "9b", "9c", *(f"0{number}" for number in range(50)))
    # Slots 4 to 23 are taken: the tenth and the twentieth of all are among them.
    fed = queue.me.feed(queue.call, 20, 3)
    assert ids(fed.entries) == [*(f"0{number}" for number in range(18)), "9a", "9b"]
    assert fed.turn == 3


def test_a_queue_that_was_empty_starts_to_count_anew(queue: Queue) -> None:
    queue.rank("0a", "0b")
    assert queue.me.feed(queue.call, 1, 4).turn == 5
    assert queue.me.feed(queue.call, 1, 5).turn == 0
    queue.put("5a", "5b")
    assert queue.me.feed(queue.call, 1, 7).turn == 8
    assert queue.me.feed(queue.call, 5, 8).turn == 0


def test_whether_priorities_are_in_use(queue: Queue) -> None:
    queue.come_back("5a")
    queue.put("5b")
    assert not queue.me.feed(queue.call, 1, 0).used
    assert not queue.me.feed(queue.call, 1, 0).used
    assert not queue.me.feed(queue.call, 1, 0).used
    queue.rank("6a")
    assert queue.me.feed(queue.call, 1, 0).used


def test_an_unreadable_entry_is_handed_out_as_it_is(queue: Queue) -> None:
    queue.call("ZADD", RANKED, 1, "nonsense")
    queue.call("XADD", AGAIN, "*", *(str(number) for number in range(2_000)))
    entries = queue.me.feed(queue.call, 5, 0).entries
    assert [len(one.fields) for one in entries] == [2_000, 2]
    assert entries[1].fields == [b"unreadable", b"nonsense"]
    assert queue.held() == 2


def test_bytes_that_are_no_text_stay_as_they_are(queue: Queue) -> None:
    queue.call("XADD", AGAIN, "*", b'\xff\x00/"\\', "1", "sent", "5")
    assert queue.me.feed(queue.call, 5, 0).entries[0].fields == [b'\xff\x00/"\\', b"1", b"sent", b"5"]


@pytest.mark.parametrize("sent", ["-5", "x", str(10**15), "9" * 400, ""])
def test_a_forged_time_leaves_the_level(queue: Queue, sent: str) -> None:
    queue.call("XADD", AGAIN, "*", "id", "8a", "sent", sent, "priority", "8")
    queue.rank("7a", "9a")
    assert queue.feed(3) == ["7a", "8a", "9a"]


@pytest.mark.parametrize("priority", ["10", "-1", "x", ""])
def test_a_forged_priority_is_none(queue: Queue, priority: str) -> None:
    queue.call("XADD", AGAIN, "*", "id", "5a", "priority", priority)
    queue.rank("4a", "6a")
    assert queue.feed(3) == ["4a", "5a", "6a"]


def test_without_a_group_nothing_moves(queue: Queue) -> None:
    queue.rank("0a")
    queue.call("XGROUP", "DESTROY", AGAIN, G)
    with pytest.raises(redis.ResponseError, match=r"^NOGROUP"):
        queue.feed()
    assert queue.call("ZCARD", RANKED) == 1


def test_without_the_stream_what_waits_beside_it_is_handed_out_first(queue: Queue) -> None:
    queue.rank("0a")
    queue.call("DEL", S)
    assert queue.feed() == ["0a"]
    with pytest.raises(redis.ResponseError, match=r"^NOGROUP"):
        queue.feed()


def test_keys_of_another_kind_are_told_and_nothing_moves(queue: Queue) -> None:
    queue.come_back("5a")
    queue.call("SET", RANKED, "x")
    with pytest.raises(redis.ResponseError, match=r"^WRONGTYPE"):
        queue.me.feed(queue.call, 1, 0)
    assert queue.held() == 0


# What is due


def test_what_is_due_waits_by_its_priority(queue: Queue, world: World) -> None:
    for text in ('["id","9a","priority","9","sent","5"]', '["id","5a","sent","6"]', '["id","0a","priority","0"]'):
        world.delay(text, -10)
    assert queue.me.promote(queue.call, 100) == (3, None)
    assert [queue.call("XLEN", AGAIN), queue.call("ZCARD", RANKED), queue.call("EXISTS", DELAYED)] == [1, 2, 0]
    assert queue.feed(3) == ["0a", "5a", "9a"]


def test_one_millisecond_keeps_its_order(queue: Queue, world: World) -> None:
    # They say no time themselves, so all are as old as this call.
    for number in range(60):
        queue.call("ZADD", DELAYED, number, json.dumps(["id", f"3{99 - number}", "priority", "3"]))
    assert queue.me.promote(queue.call, 100) == (60, None)
    assert queue.feed(60, turn=-60) == [f"3{99 - number}" for number in range(60)]


def test_readers_are_told_once_when_something_comes_where_nothing_was(queue: Queue, world: World) -> None:
    with redis.Redis.from_url(world.url) as client, client.pubsub() as heard:
        heard.subscribe(keys.CONTROL_CHANNEL)
        assert heard.get_message(timeout=5)
        for number in range(3):
            world.delay(f'["id","9{number}","priority","9"]', -10)
        queue.me.promote(queue.call, 2)
        queue.me.promote(queue.call, 2)
        message = heard.get_message(timeout=5)
        assert message is not None
        assert f"{message['channel'].decode()} {message['data'].decode()}" == wake_call(S, G)
        assert json.loads(message["data"])["args"] == {"stream": S, "group": G}
        assert heard.get_message(timeout=0.05) is None


def test_a_renewal_tells_what_waits(queue: Queue) -> None:
    assert queue.me.renew(queue.call).ranked is False
    queue.rank("9a")
    assert queue.me.renew(queue.call).ranked is True
    queue.call("DEL", LEASES)
    assert queue.me.renew(queue.call).ranked is False


# Publishing


@pytest.fixture
def broker(world: World) -> Iterator[Broker]:
    broker = Broker(world.url)
    yield broker
    broker.close()


RANKED_TASKS = keys.ranked(S, QUEUE_GROUP)


def letter(message: str, **more: Any) -> Envelope:
    """``9a`` is of priority 9, whatever more is said of it."""
    return Envelope(S, Message(message, "n", b"{}", priority=int(message[0])), **more)


@pytest.fixture
def tasks(world: World) -> ConsumerGroup:
    """A worker's side of a task queue that has read nothing."""
    group = ConsumerGroup(S, QUEUE_GROUP, "me", 30_000)
    assert group.register(world.call)
    return group


def test_messages_wait_by_priority_in_the_order_sent(world: World, broker: Broker, tasks: ConsumerGroup) -> None:
    sent = ["9a", "5a", "0b", "0a", "5b", "3a", "9b", "0c"]
    assert broker.publish_many(map(letter, sent)) == sent
    assert [world.call("XLEN", S), world.call("ZCARD", RANKED_TASKS)] == [2, 6]
    found = ids(tasks.feed(world.call, 100, -100).entries)
    assert found == ["0b", "0a", "0c", "3a", "5a", "5b", "9a", "9b"]
    message = from_fields(tasks.missing(world.call, lambda again, entry: False, 10)[2].fields)
    assert message.priority == 0
    assert abs((message.sent_ms or 0) - world.now_ms()) < 60_000


def test_a_plain_message_is_one_xadd_beside_others(world: World, broker: Broker) -> None:
    broker.send(letter("9a"))
    world.call("CONFIG", "RESETSTAT")
    broker.send(letter("5a"))
    stats = world.call("INFO", "commandstats").decode()
    assert "cmdstat_xadd:calls=1," in stats
    assert "eval" not in stats


def test_one_that_says_the_very_same_is_another_one(world: World, broker: Broker, tasks: ConsumerGroup) -> None:
    assert broker.publish_many([letter("9a")] * 300) == ["9a"] * 300
    assert len(tasks.feed(world.call, 1_000, 0).entries) == 300


def test_a_key_is_published_once(world: World, broker: Broker) -> None:
    for _ in range(2):
        assert broker.send(letter("9a", uniques=("k",))) == "9a"
        assert broker.send(letter("5b", uniques=("k",))) == "9a"
    assert [world.call("ZCARD", RANKED_TASKS), world.call("XLEN", S)] == [1, 0]


def test_what_waits_by_priority_counts_against_the_limit_of_the_same(world: World, broker: Broker) -> None:
    found, error = broker.try_many([letter(one, max_length=2) for one in ("9a", "0a", "9b", "5a")])
    assert (found, type(error)) == (["9a", "0a", None, None], QueueFull)
    assert broker.send(letter("5a", max_length=1)) == "5a"


def test_first_the_delay_then_the_priority(world: World, broker: Broker, tasks: ConsumerGroup) -> None:
    broker.publish_many([letter("9a", delay_ms=60_000), letter("0a", delay_ms=60_000), letter("3a", due_ms=5)])
    assert [world.call("ZCARD", keys.delayed(S, QUEUE_GROUP)), world.call("ZCARD", RANKED_TASKS)] == [2, 1]
    for member in world.call("ZRANGE", keys.delayed(S, QUEUE_GROUP), 0, -1):
        world.call("ZADD", keys.delayed(S, QUEUE_GROUP), 5, member)
    assert tasks.promote(world.call, 100) == (2, None)
    assert ids(tasks.feed(world.call, 5, 0).entries) == ["0a", "3a", "9a"]


def test_the_first_of_an_order_goes_by_its_priority(world: World, broker: Broker, tasks: ConsumerGroup) -> None:
    broker.publish_many([letter("9a", ordering_key="k"), letter("0a", ordering_key="k"), letter("0b")])
    assert ids(tasks.feed(world.call, 5, 0).entries) == ["0b", "9a"]


def test_readers_are_told_of_the_first_only(world: World, broker: Broker) -> None:
    with broker.client.pubsub() as heard:
        heard.subscribe(keys.CONTROL_CHANNEL)
        assert heard.get_message(timeout=5)
        broker.publish_many([letter("5a", uniques=("k",)), letter("9a"), letter("0a")])
        broker.send(letter("0b"))
        message = heard.get_message(timeout=5)
        assert message is not None
        assert f"{message['channel'].decode()} {message['data'].decode()}" == wake_call(S, QUEUE_GROUP)
        assert heard.get_message(timeout=0.05) is None


def test_what_waits_by_priority_counts_as_waiting(world: World, broker: Broker, tasks: ConsumerGroup) -> None:
    broker.publish_many(map(letter, ("9a", "5a", "0a")))
    world.call("ZADD", RANKED_TASKS, 7 * LEVEL + 1_000, '["id","7a","priority","7"]')
    state = broker.group_states(S)[0]
    assert (state.waiting, state.held, state.oldest_ms) == (4, 0, 1_000)
    tasks.feed(world.call, 4, 0)
    state = broker.group_states(S)[0]
    assert (state.waiting, state.held) == (0, 4)
    world.call("SET", RANKED_TASKS, "x")
    state = broker.group_states(S)[0]
    assert state.waiting == 0
    assert RANKED_TASKS in state.problems[0]
