"""Names of keys: one slot for all of a stream's, never two the same, and only names that keep it so."""

from __future__ import annotations

import itertools

import pytest
from redis.crc import key_slot

from taskstream import keys
from taskstream.errors import ConfigError

OF_A_GROUP = [keys.again, keys.delayed, keys.dead, keys.letters, keys.deaths, keys.leases, keys.control]
UNIQUES = [keys.unique_id, keys.unique_key, keys.unique_call]
NAMES = ["jobs", "jobs:again", "again:jobs", "a.b-c_d:1", "j", "taskstream"]


def all_keys(stream: str) -> list[str]:
    return [
        stream,
        *(key(stream, group) for key in OF_A_GROUP for group in NAMES),
        keys.watched(stream),
        keys.done_channel(stream),
        *(keys.published(stream, unique) for unique in ("k", "k:again:g", "{x}")),
        *(keys.published(stream, make(text)) for make in UNIQUES for text in ("k", "id:k")),
        *(keys.order(stream, key) for key in ("k", "k:again:g", "{x}")),
        keys.ordered(stream),
    ]


@pytest.mark.parametrize("stream", NAMES)
def test_all_keys_of_a_stream_share_its_slot(stream: str) -> None:
    assert {key_slot(key.encode()) for key in all_keys(stream)} == {key_slot(stream.encode())}


def test_no_two_names_make_the_same_key() -> None:
    made = list(itertools.chain.from_iterable(all_keys(stream) for stream in NAMES))
    assert len(made) == len(set(made))
    fixed = {keys.SUBSCRIPTIONS, keys.WORKERS, keys.CONTROL_CHANNEL, keys.worker("w"), keys.reply("r")}
    fixed |= {keys.outcomes("m"), keys.outcomes("m:outcomes")}
    assert len(fixed) == 7 and not fixed & set(made)


def test_everything_but_the_stream_itself_is_in_the_reserved_space() -> None:
    assert [key for key in all_keys("jobs") if not key.startswith(keys.RESERVED_PREFIX)] == ["jobs"]


def test_every_key_of_a_stream_is_of_a_known_kind_or_no_key() -> None:
    kinds = {key: keys.kind(key) for key in all_keys("jobs")}
    assert [key for key, kind in kinds.items() if kind is None] == [keys.done_channel("jobs")]
    assert (kinds["jobs"], keys.kind(keys.leases("a:b", "g:h")), keys.kind(keys.WORKERS)) == (b"stream", b"zset", None)


@pytest.mark.parametrize("name", ["a", "A.b_c:d-9", "x" * 200])
def test_good_names(name: str) -> None:
    assert keys.check_name("queue", name) == name


@pytest.mark.parametrize("name", ["", "x" * 201, "a b", "a{b}", "ü", "a\n", "ts:jobs", "a/b", None, 5, b"jobs"])
def test_bad_names_are_told(name: object) -> None:
    with pytest.raises(ConfigError) as caught:
        keys.check_name("queue", name)
    message = str(caught.value)
    assert message.startswith("queue ") and repr(name) in message and "\n" not in message
