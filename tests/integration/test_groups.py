"""Groups of one stream do not disturb each other; what an operator is told about them is true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from helpers import Started, eventually

from taskstream import keys
from taskstream.broker import Broker, GroupState
from taskstream.broker.group import Batch, ConsumerGroup, Entry, group_is_gone
from taskstream.link import Link
from taskstream.message import Message, fields_json, from_fields

S = "orders"


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    """A broker on an empty server."""
    broker = Broker(broker_url)
    yield broker
    broker.close()


class Member:
    """One consumer of one group."""

    def __init__(self, url: str, group: str, consumer: str = "c") -> None:
        self.link = Link(url)
        self.call = self.link.call
        self.group = ConsumerGroup(S, group, f"{group}-{consumer}", 60_000)
        assert self.group.register(self.call)

    def read(self, count: int = 100) -> list[Entry]:
        return self.group.read(self.call, count, None)

    def ids(self, count: int = 100) -> list[str]:
        """Read and acknowledge."""
        entries = self.read(count)
        batch = Batch()
        for entry in entries:
            batch.ack(entry.from_again, entry.entry_id)
        assert self.group.commit(self.call, batch, "") == (True, False)
        return [from_fields(entry.fields).id for entry in entries]

    def end(self, method: str, entry: Entry, *arguments: object) -> None:
        batch = Batch()
        getattr(batch, method)(entry.from_again, entry.entry_id, from_fields(entry.fields).id, *arguments)
        assert self.group.commit(self.call, batch, "")[0]


def publish(broker: Broker, *ids: str) -> None:
    broker.publish_many((S, Message(one, "Order", b"{}")) for one in ids)


def test_every_group_gets_every_message_once_although_one_fails_once(broker: Broker) -> None:
    # Given two groups, of which the first fails at its second message
    billing, shipping = Member(broker.url, "billing"), Member(broker.url, "shipping")
    publish(broker, "a", "b", "c")
    first = billing.read()
    assert [from_fields(one.fields).id for one in first] == ["a", "b", "c"]
    billing.end("ack_suspect", first[0])
    billing.end("ack_suspect", first[2])
    again = Message("b", "Order", b"{}", attempt=2, deliveries=1)
    billing.end("retry", first[1], 0, fields_json(again))
    # When the retry is due
    assert billing.group.promote(billing.call, 100) == (1, None)
    # Then it goes to its own group only, and the other sees each message once
    (retried,) = billing.read()
    assert retried.from_again and from_fields(retried.fields) == again
    assert shipping.ids() == ["a", "b", "c"]
    assert shipping.ids() == [] and shipping.group.promote(shipping.call, 100) == (0, None)
    billing.end("ack_suspect", retried)
    assert billing.ids() == []
    # And when both are through, nothing of the stream is left
    assert billing.group.trim(billing.call, 1000) == 3
    assert broker.stream_length(S) == 0


@pytest.mark.parametrize("method", ["give_back", "bury"])
def test_what_one_group_gives_back_or_buries_is_its_own_matter(broker: Broker, method: str) -> None:
    billing, shipping = Member(broker.url, "billing"), Member(broker.url, "shipping")
    publish(broker, "a")
    (entry,) = billing.read()
    billing.end(method, entry, fields_json(from_fields(entry.fields)))
    assert shipping.ids() == ["a"] and shipping.ids() == []
    assert broker.client.zcard(keys.dead(S, "shipping")) == 0
    assert billing.ids() == (["a"] if method == "give_back" else [])


def test_a_group_made_later_gets_what_was_sent_before_and_is_not_done(broker: Broker) -> None:
    billing = Member(broker.url, "billing")
    publish(broker, "a", "b")
    assert billing.ids(1) == ["a"]
    late = Member(broker.url, "late")
    assert billing.ids() == ["b"]
    assert late.ids() == ["b"]


def test_the_own_stream_is_read_without_the_common_one(broker: Broker) -> None:
    billing = Member(broker.url, "billing")
    publish(broker, "a", "b")
    entry = billing.read(1)[0]
    billing.end("give_back", entry, fields_json(Message("a", "Order", b"{}")))
    (own,) = billing.group.read(billing.call, 10, None, main=False)
    assert own.from_again and own.times == 1
    assert [from_fields(one.fields).id for one in billing.read()] == ["b"]


def test_what_was_handed_out_in_a_lost_reply_is_found(broker: Broker) -> None:
    billing = Member(broker.url, "billing")
    publish(broker, "a", "b", "c", "d")
    entries = billing.read()
    known = {(one.from_again, one.entry_id) for one in entries[:1]}
    billing.call("XDEL", S, entries[3].entry_id)
    found = billing.group.missing(billing.call, lambda again, entry: (again, entry) in known, 100)
    assert found == entries[1:3]
    # The deleted one is not held any more
    assert broker.group_states(S)[0].held == 3
    assert Member(broker.url, "billing", "other").group.missing(billing.call, lambda again, entry: False, 100) == []


def test_a_group_that_is_gone_is_told_from_other_errors(broker: Broker) -> None:
    billing = Member(broker.url, "billing")
    billing.call("XGROUP", "DESTROY", S, "billing")
    with pytest.raises(redis.ResponseError) as caught:
        billing.read()
    assert group_is_gone(caught.value)
    with pytest.raises(redis.ResponseError) as caught:
        billing.call("HSET", S, "a", "b")
    assert not group_is_gone(caught.value) and not group_is_gone(OSError())


def test_the_numbers_of_a_group(broker: Broker) -> None:
    billing, shipping = Member(broker.url, "billing"), Member(broker.url, "shipping", "x")
    Member(broker.url, "shipping", "y")
    publish(broker, *"abcdefgh")
    entries = billing.read(5)
    billing.end("retry", entries[0], 60_000, fields_json(Message("a", "Order", b"{}")))
    billing.end("give_back", entries[1], fields_json(Message("b", "Order", b"{}")))
    billing.end("bury", entries[2], "{}")
    assert len(billing.group.read(billing.call, 1, None, main=False)) == 1
    billing.end("give_back", entries[3], fields_json(Message("d", "Order", b"{}")))
    assert len(shipping.ids()) == 8
    broker.set_state(S, "billing", "stopped")
    own_oldest = int(entries[4].entry_id.partition("-")[0])
    first, second = broker.group_states(S)
    # 3 unread and d; e and b are held; a is delayed
    assert first == GroupState("billing", 4, 2, 1, 1, 1, own_oldest, "stopped")
    assert second == GroupState("shipping", 0, 0, 0, 0, 2, None, None)


def test_waiting_is_counted_where_the_server_lost_count(broker: Broker) -> None:
    Member(broker.url, "billing").ids()
    publish(broker, *"abcde")
    third = broker.call("XRANGE", S, "-", "+")[2][0]
    broker.call("XDEL", S, third)
    assert broker.call("XINFO", "GROUPS", S)[0][-1] is None, "this server knows its lag: the test shows nothing"
    assert broker.group_states(S)[0].waiting == 4
    Member(broker.url, "billing", "other").ids()
    assert broker.group_states(S)[0].waiting == 0


def test_no_stream_has_no_groups(broker: Broker) -> None:
    assert broker.group_states("nowhere") == [] and broker.stream_length("nowhere") == 0
    publish(broker, "a")
    assert broker.group_states(S) == [] and broker.stream_length(S) == 1


CONFIG = {
    "app": {"name": "orders", "version": "1.0"},
    "events": {
        name: {
            "type": "STREAM",
            "read_stream": {"name": S, "consumer_group": name},
        }
        for name in ("billing", "shipping")
    },
}
EVENT = '''
"""
NAME
"""
from pathlib import Path
from taskstream.app.context import EventContext
from taskstream.dataobjects import dataobject

__steps__ = ["STEP"]

@dataobject
class Order:
    item: str

STEP_DEF STEP(order: Order, context: EventContext) -> str:
    runs = Path(f"NAME-{order.item}")
    with runs.open("a") as file:
        file.write("x")
    if "NAME" == "billing" and order.item == "b" and len(runs.read_text()) == 1:
        raise ValueError("once")
    return order.item
'''


def test_two_events_of_one_stream_in_a_real_pool(
    broker: Broker, tmp_path: Path, start_cli: Callable[..., Started]
) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"streams": {"connection_str": broker.url}}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    package = tmp_path / "orders"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, definition in (("billing", "def"), ("shipping", "async def")):
        text = EVENT.replace("STEP_DEF", definition).replace("STEP", "take").replace("NAME", name)
        (package / f"{name}.py").write_text(text)
    start_cli("worker", "--config-files", "server.json,config.json", "--processes", "2", cwd=tmp_path)
    broker.publish_many((S, Message(one, "Order", json.dumps({"item": one}).encode())) for one in "abc")

    def runs() -> dict[str, int]:
        return {path.name: len(path.read_text()) for path in tmp_path.glob("*ing-?")}

    once = {f"{name}-{one}": 1 for name in ("billing", "shipping") for one in "abc"}
    eventually(lambda: runs() == once | {"billing-b": 2}, 30)

    def left() -> list[tuple[int, int, int, int]]:
        return [(one.waiting, one.held, one.delayed, one.dead) for one in broker.group_states(S)]

    eventually(lambda: left() == [(0, 0, 0, 0)] * 2)
    eventually(lambda: broker.stream_length(S) == 0, message="trimmed")
    assert runs() == once | {"billing-b": 2}
