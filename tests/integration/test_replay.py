"""What streams keep of what is done, and running it again: in the group that is meant, once, and nothing unfinished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import Started, eventually

from taskstream import keys
from taskstream.broker import Broker
from taskstream.broker.group import Batch, ConsumerGroup, Entry
from taskstream.broker.replay import Replay
from taskstream.cli.replay import replay as command
from taskstream.link import Link
from taskstream.message import Message, fields_json, fields_of, from_fields
from taskstream.results import open_store

S = "orders"
HOUR_MS = 3_600_000


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    """A broker on an empty server."""
    broker = Broker(broker_url)
    yield broker
    broker.close()


class Member:
    """The only consumer of a group that keeps what is done for ``retention_ms``."""

    def __init__(self, broker: Broker, group: str, retention_ms: int = HOUR_MS) -> None:
        self.broker = broker
        self.call = Link(broker.url).call
        self.group = ConsumerGroup(S, group, f"{group}-c", 60_000, retention_ms)
        assert self.group.register(self.call)

    def read(self, count: int = 100) -> list[Entry]:
        return self.group.read(self.call, count, None)

    def end(self, method: str, entry: Entry, *arguments: object) -> None:
        batch = Batch()
        getattr(batch, method)(entry.from_again, entry.entry_id, from_fields(entry.fields).id, *arguments)
        assert self.group.commit(self.call, batch, "")[0]

    def ack(self, *entries: Entry) -> None:
        batch = Batch()
        for entry in entries:
            batch.ack(entry.from_again, entry.entry_id)
        assert self.group.commit(self.call, batch, "")[0]

    def replay(self, since_s: float = 3600, until_s: float = 0) -> list[str]:
        """Replay; return the ids that were put back."""
        now_ms = self.broker.now_ms()
        around = Replay(
            self.broker,
            S,
            self.group.group,
            since_ms=now_ms - int(since_s * 1000),
            until_ms=now_ms - int(until_s * 1000),
            now_ms=now_ms,
        )
        back = []
        for found in list(around.find()):
            back += [done.message.id for done, was in zip(found, around.run(found), strict=True) if was]
        return back

    def trim(self) -> int:
        return self.group.trim(self.call, 1000)


def publish(broker: Broker, *ids: str, ago_s: float | None = None) -> None:
    """Put messages on the stream, as if they had been sent ``ago_s`` seconds ago."""
    for number, one in enumerate(ids):
        entry = "*" if ago_s is None else f"{broker.now_ms() - int(ago_s * 1000)}-{number}"
        broker.call("XADD", S, entry, *fields_of(Message(one, "Order", b"{}", {"request_id": "r", "ts-then": []})))


def ids(entries: list[Entry]) -> list[str]:
    return [from_fields(entry.fields).id for entry in entries]


def test_only_what_is_done_runs_again_and_only_in_its_group(broker: Broker) -> None:
    # Given two groups, of which one has messages in every state
    billing, shipping = Member(broker, "billing"), Member(broker, "shipping")
    publish(broker, "done", "dead", "delayed", "back", "held", "back-held", "unread")
    shipping.ack(*shipping.read())
    done, dead, delayed, back, _, back_held = billing.read(6)
    billing.ack(done)
    billing.end("bury", dead, '{"fields": []}')
    for entry in (back, back_held):
        billing.end("give_back", entry, fields_json(from_fields(entry.fields)))
    (again, _) = [one for one in billing.read(2) if one.from_again]
    billing.end("ack_suspect", again)
    billing.end("retry", delayed, 60_000, fields_json(from_fields(delayed.fields)))
    before = broker.call("XLEN", S)
    # When it is replayed
    assert billing.replay() == ["done", "back"]
    # Then these are in its own stream, as they were sent, and the other group has nothing to do
    rows = broker.call("XRANGE", keys.again(S, "billing"), "-", "+")[-2:]
    copies = [from_fields(fields) for _, fields in rows]
    assert [(one.id, one.name, one.body, one.attempt) for one in copies] == [
        ("done", "Order", b"{}", 1),
        ("back", "Order", b"{}", 1),
    ]
    assert copies[0].sent_ms == int(done.entry_id.partition("-")[0])
    assert all(one.deliveries > 10_000_000 for one in copies)
    (mark,) = {json.dumps(one.headers, sort_keys=True) for one in copies}
    assert json.loads(mark) == {"request_id": "r", "ts-replay": json.loads(mark)["ts-replay"]}
    assert broker.call("XLEN", S) == before
    assert shipping.read() == []
    # And while they wait, or run, they are not replayed once more
    assert billing.replay() == []
    own = [entry for entry in billing.read() if entry.from_again]
    assert billing.replay() == []
    billing.ack(*own)
    assert billing.replay() == ["done", "back"]


def test_what_never_was_in_the_common_stream_is_kept_and_replayed_too(broker: Broker) -> None:
    """Given a message that was sent with a delay, When it is done, Then its group can replay it."""
    member = Member(broker, "taskstream")
    message = Message("later", "Order", b"{}", sent_ms=broker.now_ms() - 1000)
    broker.call("ZADD", keys.delayed(S, "taskstream"), 0, fields_json(message))
    member.group.promote(member.call, 10)
    member.ack(*member.read())
    assert member.replay() == ["later"]


@pytest.mark.parametrize("waits_in", [keys.ranked, keys.delayed])
def test_what_waits_outside_of_the_streams_is_not_replayed(broker: Broker, waits_in: Callable[..., str]) -> None:
    member = Member(broker, "taskstream")
    publish(broker, "a", "b")
    member.ack(*member.read())
    broker.call("ZADD", waits_in(S, "taskstream"), 1, fields_json(Message("a", "Order", b"{}", attempt=2)))
    assert member.replay() == ["b"]


def test_what_waits_for_a_slot_is_not_replayed(broker: Broker) -> None:
    member = Member(broker, "taskstream")
    publish(broker, "a", "b")
    member.ack(*member.read())
    broker.call("HSET", keys.parking(S), "jobs.one", 1)
    broker.call("RPUSH", keys.parked(S, "jobs.one"), fields_json(Message("a", "Order", b"{}")))
    assert member.replay() == ["b"]
    broker.call("DEL", keys.parking(S), keys.parked(S, "jobs.one"))


def test_what_waits_for_its_turn_is_not_replayed(broker: Broker) -> None:
    # Given a message that died, was requeued, and waits behind another one of its ordering key
    member = Member(broker, "taskstream")
    publish(broker, "a", "b")
    member.ack(*member.read())
    order = keys.order(S, "customer 7")
    broker.call("RPUSH", order, "another", fields_json(Message("a", "Order", b"{}")))
    broker.call("HSET", keys.ordered(S), "", 1, order, 1)
    # Then it is not among what is replayed
    assert member.replay() == ["b"]
    broker.call("DEL", order, keys.ordered(S))


def test_a_message_is_replayed_once_however_often_it_was_tried(broker: Broker) -> None:
    member = Member(broker, "taskstream")
    publish(broker, "a")
    for attempt in (2, 3):
        (entry,) = member.read()
        again = Message("a", "Order", b"{}", attempt=attempt, sent_ms=broker.now_ms())
        member.end("retry", entry, 0, fields_json(again))
        member.group.promote(member.call, 10)
    member.ack(*member.read())
    assert member.replay() == ["a"]
    member.ack(*member.read())
    assert member.replay() == ["a"]


def test_since_and_until_are_when_it_was_sent(broker: Broker) -> None:
    member = Member(broker, "taskstream", 24 * HOUR_MS)
    for hours in (5, 3, 1):
        publish(broker, f"{hours}h", ago_s=hours * 3600)
    # The one of five hours ago was tried again just now
    first, *rest = member.read()
    member.end("give_back", first, fields_json(Message("5h", "Order", b"{}", sent_ms=broker.now_ms() - 5 * HOUR_MS)))
    member.ack(*rest, *member.read())
    assert member.replay(4 * 3600) == ["3h", "1h"]
    member.ack(*member.read())
    assert member.replay(6 * 3600, 2 * 3600) == ["5h", "3h"]


def test_many_and_large_ones_go_in_bounded_pieces(broker: Broker) -> None:
    member = Member(broker, "taskstream")
    publish(broker, *(f"m{number}" for number in range(450)))
    for number in range(3):
        broker.publish(S, Message(f"large{number}", "Order", b'"' + b"x" * 3_000_000 + b'"'))
    while entries := member.read(1000):
        member.ack(*entries)
    sizes = []
    now_ms = broker.now_ms()
    around = Replay(broker, S, "taskstream", since_ms=0, until_ms=now_ms, now_ms=now_ms)
    for found in around.find():
        sizes.append(len(found))
        assert all(around.run(found))
    assert sum(sizes) == 453 and max(sizes) <= 100
    assert broker.group_states(S)[0].waiting == 453


def test_what_is_done_goes_when_it_is_old_enough(broker: Broker) -> None:
    # Given a group that keeps what is done for an hour, and one that keeps nothing
    billing, shipping = Member(broker, "billing"), Member(broker, "shipping", 0)
    publish(broker, "old", ago_s=7200)
    publish(broker, "older-than-that-too", ago_s=3700)
    publish(broker, "young")
    entries = billing.read()
    shipping.ack(*shipping.read())
    # What is not done stays in any case
    assert (billing.trim(), shipping.trim(), broker.stream_length(S)) == (0, 0, 3)
    billing.ack(*entries)
    # When either trims, Then only what is old enough is removed
    assert (billing.trim(), shipping.trim(), broker.stream_length(S)) == (2, 0, 1)
    # And when nobody wants to keep anything any more, it goes
    billing.group.retention_ms = 0
    assert (billing.trim(), broker.stream_length(S)) == (1, 0)


def test_a_groups_own_stream_is_trimmed_as_well(broker: Broker) -> None:
    member = Member(broker, "taskstream")
    again = keys.again(S, "taskstream")
    old = broker.now_ms() - 2 * HOUR_MS
    for number in range(3):
        broker.call("XADD", again, f"{old}-{number}", *fields_of(Message(f"m{number}", "Order", b"{}")))
    first, second, _ = member.read()
    member.ack(first)
    member.trim()
    assert broker.stream_length(again) == 2
    member.ack(second)
    # The setting is taken back while one of them is held
    member.group.retention_ms = 0
    member.trim()
    assert broker.stream_length(again) == 1
    assert broker.client.exists(keys.retention(S)) == 0


def test_without_retention_nothing_is_kept(broker: Broker) -> None:
    member = Member(broker, "taskstream", 0)
    publish(broker, "a", "b")
    first, second = member.read()
    member.end("give_back", first, fields_json(from_fields(first.fields)))
    member.ack(second, *member.read())
    assert broker.stream_length(S) == broker.stream_length(keys.again(S, "taskstream")) == 0
    assert member.replay() == []


def said(broker: Broker, *arguments: str) -> Any:
    """What the command prints, as JSON."""
    done = CliRunner().invoke(command, [*arguments, "--json", "--broker", broker.url], catch_exceptions=False)
    return json.loads(done.stdout)


def test_the_command_counts_and_replays(broker: Broker) -> None:
    member = Member(broker, "taskstream")
    broker.announce_subscriptions({"orders": (S, "taskstream")}, 3600)
    publish(broker, "a", "b")
    member.ack(*member.read())
    assert said(broker, "orders", "--since", "1h", "--dry-run") == {"label": "orders", "found": 2, "replayed": 0}
    assert said(broker, "orders", "--since", "2h", "--until", "1h") == {"label": "orders", "found": 0, "replayed": 0}
    assert said(broker, "orders", "--since", "1h") == {"label": "orders", "found": 2, "replayed": 2}
    assert ids(member.read()) == ["a", "b"]
    plain = CliRunner().invoke(command, ["orders", "--since", "1h", "--broker", broker.url], catch_exceptions=False)
    assert plain.stdout == "replayed 0 messages of orders\n"
    assert "`retention` says" in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["orders"], "Missing option '--since'"),
        (["orders", "--since", "soon"], "'soon' is no duration"),
        (["orders", "--since", "1h", "--until", "2h"], "nothing can have been sent at most 1 h"),
    ],
)
def test_bad_usage_of_the_command_is_told(arguments: list[str], text: str) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2 and text in done.stderr.replace("1h", "1 h")


APP = """
from pathlib import Path
from taskstream import Taskstream

app = Taskstream("kept", results="json://results", retention="1h")


@app.task(autoretry_for=(ValueError,), retry_backoff=0.01, max_retries=3)
def note(word: str) -> int:
    runs = Path(__file__).with_name(word)
    count = len(runs.read_text()) if runs.exists() else 0
    runs.write_text("x" * (count + 1))
    if count < 2:
        raise ValueError("not yet")
    return count
"""


def test_the_outcome_of_a_replay_replaces_the_earlier_one(
    tmp_path: Path, broker: Broker, start_cli: Callable[..., Started], run_cli: Callable[..., Any]
) -> None:
    """Given a call that succeeded at its third try, When the queue is replayed, Then its new outcome is the one."""
    (tmp_path / "kept.py").write_text(APP)
    environment = {"TASKSTREAM_BROKER": broker.url}
    pool = start_cli("worker", "-A", "kept:app", "--processes", "1", cwd=tmp_path, env=environment)
    body = b'{"args": ["a"]}'
    broker.publish("kept", Message("first", "kept.note", body))
    store = open_store("json://results", base=tmp_path)
    assert store is not None

    def value() -> bytes:
        return b"".join(bytes(one.value) for one in store.read("first") if one.state == "SUCCESS")

    eventually(lambda: value() == b"2", 20, lambda: pool.output)
    eventually(lambda: broker.group_states("kept")[0].held == 0)
    for expected in (b"3", b"4"):
        done = run_cli("replay", "kept", "--since", "1h", "-A", "kept:app", cwd=tmp_path, env=environment)
        assert done.stdout == "replayed 1 message of kept\n", done.stderr
        eventually(lambda expected=expected: value() == expected, 20, lambda: pool.output)  # type: ignore[misc]
        eventually(lambda: broker.group_states("kept")[0].held == 0)
        # The numbers of two replays in one second are the same
        second = broker.now_ms() // 1000
        eventually(lambda second=second: broker.now_ms() // 1000 > second)  # type: ignore[misc]
    (outcome,) = store.read("first")
    assert outcome.attempts == 1 and outcome.delivery > 10_000_000
