"""Looking at dead letters, requeueing and purging them, on a real server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
from letters import BODY, DEAD, GROUP, LETTERS, STREAM, again, bury, bury_many, letter_json, unreadable_json

from taskstream import keys
from taskstream.broker import Broker
from taskstream.broker.letters import HISTORY, MAX_FIELDS, PIECE, DeadLetter, Filter, Letters, Verdict
from taskstream.message import Message, from_fields
from taskstream.results.base import Failure


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    broker = Broker(broker_url)
    yield broker
    broker.close()


@pytest.fixture
def letters(broker: Broker) -> Letters:
    return Letters(broker, STREAM, GROUP)


def found(letters: Letters, **filters: object) -> list[DeadLetter]:
    return [letter for page in letters.find(Filter(**filters)) for letter in page.letters]  # type: ignore[arg-type]


def ids(letters: Letters, **filters: object) -> list[str]:
    return [letter.id for letter in found(letters, **filters)]


def one(letters: Letters, message_id: str) -> DeadLetter:
    ((some, none),) = letters.get([message_id])
    assert not none
    return some[0]


def kill_again(broker: Broker, message: Message, error: str = "ValueError", *, number: int) -> None:
    """What a worker does with a message that fails once more."""
    bury(broker, {message.id: letter_json(message, error, number=number)})


def requeued(broker: Broker) -> Message:
    """The last entry of the group's own stream."""
    rows = broker.client.xrevrange(keys.again(STREAM, GROUP), count=1)
    assert isinstance(rows, list)
    return from_fields([part for pair in rows[0][1].items() for part in pair])


# -- looking ---------------------------------------------------------------------------------------------------


def test_a_letter_is_what_the_worker_wrote(broker: Broker, letters: Letters) -> None:
    message = Message("m1", "jobs.add", BODY, {"request_id": "r1"}, attempt=4, deliveries=3)
    bury(broker, {"m1": letter_json(message, "KeyError", "ü", number=6)}, ago_s=100)
    letter = one(letters, "m1")
    assert letter.message() == Message("m1", "jobs.add", BODY, {"request_id": "r1"}, 4, 6, 1790000000000)
    assert (letter.handler, letter.attempts, letter.deliveries, letter.deaths) == ("jobs.add", 4, 6, 0)
    assert letter.error == Failure("KeyError", "ü", "Traceback\n  KeyError: ü")
    assert (letter.worker, letter.sent_ms, letter.history()) == ("host.1.1", 1790000000000, [])
    assert abs(broker.now_ms() - 100_000 - letter.died_ms) < 10_000


def test_ids_are_found_in_their_order_and_others_are_told(broker: Broker, letters: Letters) -> None:
    bury_many(broker, 150)
    wanted = ["m000149", "x", *(f"m{n:06d}" for n in range(148, 0, -1)), "y", "x", "m000149"]
    pieces = list(letters.get(wanted))
    assert [letter.id for some, _ in pieces for letter in some] == [f"m{n:06d}" for n in range(149, 0, -1)]
    assert [name for _, none in pieces for name in none] == ["x", "y"]
    assert max(len(some) for some, _ in pieces) <= PIECE


def test_filters(broker: Broker, letters: Letters) -> None:
    message = Message("m1", "jobs.add", BODY)
    bury(broker, {"a": letter_json(message, "KeyError")}, ago_s=7200)
    bury(broker, {"b": letter_json(message, "ValueError")}, ago_s=3600)
    bury(broker, {"c": letter_json(message, "KeyError", handler="jobs.1x0.handle")}, ago_s=60)
    bury(broker, {"d": letter_json(Message("d", "Order", BODY), "UnknownHandler", handler=None)}, ago_s=30)
    assert ids(letters) == ["a", "b", "c", "d"]
    assert ids(letters, error="KeyError") == ["a", "c"]
    assert ids(letters, error="keyerror") == []
    # The handler's name or the message's own
    assert ids(letters, task="jobs.add") == ["a", "b", "c"]
    assert ids(letters, task="jobs.1x0.handle") == ["c"]
    assert ids(letters, task="Order") == ["d"]
    assert ids(letters, since_s=4000) == ["b", "c", "d"]
    assert ids(letters, older_than_s=4000) == ["a"]
    assert ids(letters, since_s=4000, older_than_s=50) == ["b", "c"]
    assert ids(letters, since_s=50, older_than_s=4000) == []
    assert ids(letters, error="KeyError", limit=1) == ["a"]
    assert ids(letters, limit=3) == ["a", "b", "c"]
    assert [letters.count(), letters.count(Filter(since_s=4000))] == [4, 3]


def test_many_of_one_millisecond_come_once_each(broker: Broker, letters: Letters) -> None:
    buried = bury_many(broker, 2500)
    pages = list(letters.find(Filter()))
    assert sorted(letter.id for page in pages for letter in page.letters) == buried
    assert sum(page.examined for page in pages) == 2500
    assert max(page.examined for page in pages) <= PIECE


@pytest.mark.parametrize("keep_every", [0, 2, 7])
def test_none_is_missed_while_they_go(broker: Broker, letters: Letters, keep_every: int) -> None:
    """Those looked at are purged, all but some; somebody else purges others meanwhile."""
    buried = bury_many(broker, 2500)
    elsewhere = Letters(broker, STREAM, GROUP)
    seen: list[str] = []
    for turn, page in enumerate(letters.find(Filter())):
        seen += (letter.id for letter in page.letters)
        if turn % 5 == 3:
            others = next(elsewhere.find(Filter(limit=10))).letters
            elsewhere.purge(others)
        letters.purge([one for n, one in enumerate(page.letters) if not keep_every or n % keep_every])
    assert len(seen) == len(set(seen))
    # Only what somebody else purged before it was looked at may be missing, and that was the oldest: long seen
    assert set(seen) == set(buried)


def test_large_letters_come_in_small_pieces(broker: Broker, letters: Letters) -> None:
    body = b'"' + b"x" * 500_000 + b'"'
    bury(broker, {f"m{n:02d}": letter_json(Message(f"m{n:02d}", "jobs.add", body)) for n in range(40)})
    sizes = [page.examined for page in letters.find(Filter())]
    assert sum(sizes) == 40 and max(sizes[1:]) <= 8


def test_what_dies_while_looking_is_for_another_time(broker: Broker, letters: Letters) -> None:
    bury_many(broker, 30)
    pages = letters.find(Filter())
    first = next(pages)
    # Requeued and dead again at once: a requeue of all must end
    letters.requeue(first.letters)
    for letter in first.letters:
        bury(broker, {letter.id: letter_json(Message(letter.id, "jobs.add", BODY))}, ago_s=-1)
    assert sum(len(page.letters) for page in pages) == 30 - len(first.letters)


@pytest.mark.parametrize(
    "damaged", [b"", b"{}", b"[]", b"\xff", b'{"fields":[1],"error":{}}', b'{"fields":[],"error":{"type":5}}', None]
)
def test_a_damaged_letter_hides_no_other(broker: Broker, letters: Letters, damaged: bytes | None) -> None:
    bury_many(broker, 2)
    broker.client.zadd(DEAD, {"bad": 5})
    if damaged is not None:
        broker.client.hset(LETTERS, "bad", damaged)
    assert ids(letters) == ["bad", "m000000", "m000001"]
    letter = one(letters, "bad")
    assert (letter.error.type, letter.history()) == ("DamagedLetter", [])
    (verdict,) = letters.requeue([letter], force=True)
    assert not verdict.done and verdict.problem is not None and "nothing to be put back" in verdict.problem
    assert letters.purge([letter]) == [Verdict("bad", True)]
    assert ids(letters) == ["m000000", "m000001"]


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-5"])
def test_a_time_of_death_that_nobody_had(broker: Broker, letters: Letters, score: str) -> None:
    broker.call("ZADD", DEAD, score, "m1")
    broker.client.hset(LETTERS, "m1", letter_json(Message("m1", "jobs.add", BODY)))
    assert one(letters, "m1").died_ms == 0


def test_what_somebody_else_takes_while_looking_is_no_damaged_letter(
    broker: Broker, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of times and that of letters."""
    bury_many(broker, 15)
    real, taken = broker.call, ["m000003", "m000007"]

    def call(*command: object) -> object:
        if command[0] == "HMGET" and taken:
            broker.client.zrem(DEAD, taken[0])
            broker.client.hdel(LETTERS, taken.pop(0))
        return real(*command)

    monkeypatch.setattr(broker, "call", call)
    assert ids(letters) == [f"m{n:06d}" for n in range(15) if n != 3]
    ((some, none),) = letters.get(["m000006", "m000007", "m000008"])
    assert ([letter.id for letter in some], none) == (["m000006", "m000008"], ["m000007"])


# -- requeueing ------------------------------------------------------------------------------------------------


def test_a_requeued_message_is_the_same_with_all_attempts_again(broker: Broker, letters: Letters) -> None:
    message = Message("m1", "jobs.add", BODY, {"request_id": "r1", "ts-unknown": 12}, attempt=4)
    bury(broker, {"m1": letter_json(message, number=7)})
    letter = one(letters, "m1")
    assert letters.requeue([letter]) == [Verdict("m1", True)]
    death = {"type": "ValueError", "message": "why", "attempts": 4, "deliveries": 7, "at": letter.died_ms}
    # The number of its deliveries goes on, or the store would keep the old outcome; its attempts start over
    assert requeued(broker) == Message(
        "m1", "jobs.add", BODY, {"request_id": "r1", "ts-history": [death]}, 1, 7, 1790000000000
    )
    assert ids(letters) == [] and not broker.client.exists(DEAD, LETTERS)


def test_history_grows_with_every_death_and_has_an_end(broker: Broker, letters: Letters) -> None:
    message = Message("m1", "jobs.add", BODY)
    for number in range(1, HISTORY + 4):
        kill_again(broker, message, f"Error{number}", number=number)
        letter = one(letters, "m1")
        assert [past.type for past in letter.history()] == [f"Error{n}" for n in range(max(1, number - 10), number)]
        assert letters.requeue([letter])[0].done
        message = requeued(broker)
    assert [past.deliveries for past in letter.history()] == list(range(3, 13))


def test_a_long_text_of_an_error_is_cut_in_the_history(broker: Broker, letters: Letters) -> None:
    bury(broker, {"m1": letter_json(Message("m1", "jobs.add", BODY), text="x" * 100_000)})
    letters.requeue([one(letters, "m1")])
    assert len(json.dumps(requeued(broker).headers)) < 2000


@pytest.mark.parametrize("forged", ["text", [1], [{"type": 5}], {"a": 1}, None, [[[]]]])
def test_a_history_that_is_none_is_left_out(broker: Broker, letters: Letters, forged: object) -> None:
    bury(broker, {"m1": letter_json(Message("m1", "jobs.add", BODY, {"ts-history": forged}))})
    letter = one(letters, "m1")
    assert letter.history() == []
    assert letters.requeue([letter])[0].done
    assert (requeued(broker).headers or {})["ts-history"][0]["type"] == "ValueError"


def test_the_same_letter_is_requeued_once(broker: Broker, letters: Letters) -> None:
    bury_many(broker, 2)
    both = found(letters)
    assert letters.requeue(both) == [Verdict("m000000", True), Verdict("m000001", True)]
    assert letters.requeue(both) == [Verdict("m000000", False), Verdict("m000001", False)]
    # Nor once it died again: that letter nobody has read yet
    kill_again(broker, requeued(broker), number=5)
    assert letters.requeue(both)[1] == letters.purge(both)[1] == Verdict("m000001", False)
    assert len(again(broker)) == 2 and ids(letters) == ["m000001"]


def test_one_groups_requeue_reaches_no_other(broker: Broker, letters: Letters) -> None:
    bury_many(broker, 1)
    broker.client.copy(DEAD, keys.dead(STREAM, "other"))
    broker.client.copy(LETTERS, keys.letters(STREAM, "other"))
    for group in (GROUP, "other"):
        broker.client.xgroup_create(STREAM, group, "0", mkstream=True)
    letters.requeue(found(letters))
    assert len(again(broker)) == 1 and broker.client.xlen(STREAM) == 0
    assert not broker.client.exists(keys.again(STREAM, "other"))
    assert Letters(broker, STREAM, "other").count() == 1


@pytest.mark.parametrize(
    "fields", [[b"a", b"b"], [b"v", b"1", b"id", b"m"], [b"\xff\xfe", b"\x00"], [b"name", b"\xc3"], [b"k", b"\xc3\xbc"]]
)
def test_what_is_no_message_goes_back_only_by_force_and_unchanged(
    broker: Broker, letters: Letters, fields: list[bytes]
) -> None:
    bury(broker, {"entry-5-1": unreadable_json("5-1", fields), "m1": letter_json(Message("m1", "jobs.add", BODY))})
    both = found(letters)
    assert [letter.error.type for letter in both] == ["InvalidMessage", "ValueError"]
    refused, done = letters.requeue(both)
    assert done == Verdict("m1", True)
    assert refused.problem is not None and refused.problem.startswith("entry-5-1 is no message that could run: ")
    assert ids(letters) == ["entry-5-1"]
    assert letters.requeue(both[:1], force=True) == [Verdict("entry-5-1", True)]
    (_, raw) = broker.client.xrevrange(keys.again(STREAM, GROUP), count=1)[0]  # type: ignore[index]
    assert [part for pair in raw.items() for part in pair] == fields
    assert ids(letters) == []


def test_an_entry_with_too_many_fields_stays(broker: Broker, letters: Letters) -> None:
    for count, done in ((MAX_FIELDS, True), (MAX_FIELDS + 2, False)):
        bury(broker, {"entry-1-1": unreadable_json("1-1", [b"x"] * count)})
        (verdict,) = letters.requeue(found(letters), force=True)
        assert verdict.done is done
    assert verdict.problem == f"entry-1-1 has {MAX_FIELDS + 2} fields and values, at most {MAX_FIELDS} can be put back"


def test_nothing_to_do(letters: Letters) -> None:
    assert letters.requeue([]) == letters.purge([]) == list(letters.get([])) == list(letters.find(Filter())) == []
    assert letters.count() == 0


def test_a_filter_without_anything_fits_everything() -> None:
    assert all(getattr(Filter(), field.name) is None for field in dataclasses.fields(Filter))
