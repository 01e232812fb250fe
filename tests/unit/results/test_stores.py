"""What every result store promises, asked of each of them."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import DAY_MS, NOW_MS, outcome

from taskstream.errors import ConfigError, ResultUnavailable
from taskstream.message import encode_json, new_id
from taskstream.results import FAILURE, RETRY, Failure, Outcome, ResultStore, open_store


@pytest.fixture(params=["file", "json", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultStore]:
    url = "redis" if request.param == "redis" else f"{request.param}://results"
    if url == "redis":
        url = request.getfixturevalue("broker_url")
    opened = open_store(url, base=tmp_path, retention=7 * 86_400)
    assert opened is not None
    yield opened
    opened.close()


def test_an_outcome_is_read_back_by_id_and_group(store: ResultStore) -> None:
    message_id = new_id()
    first, second = outcome(message_id, group="a"), outcome(message_id, group="b", state=RETRY)
    store.write([first, second, outcome(new_id())])
    assert store.read(message_id, "a") == [first]
    assert sorted(store.read(message_id), key=lambda found: found.group) == [first, second]
    assert store.read(message_id, "c") == []
    assert store.read(new_id()) == []


def test_an_earlier_delivery_never_replaces_a_later_one(store: ResultStore) -> None:
    message_id = new_id()
    store.write([outcome(message_id, delivery=2, worker="second")])
    store.write([outcome(message_id, delivery=1, worker="zombie")])
    assert store.read(message_id)[0].worker == "second"
    store.write([outcome(message_id, delivery=2, worker="again")])
    assert store.read(message_id)[0].worker == "again"
    store.write([outcome(message_id, delivery=10, worker="tenth"), outcome(message_id, delivery=9, worker="ninth")])
    assert store.read(message_id)[0].worker == "tenth"


def test_children_are_kept_where_there_are_any(store: ResultStore) -> None:
    parent, lone = outcome(new_id(), children=["a", "b"], request_id="r"), outcome(new_id())
    store.write([parent, lone])
    assert store.read(parent.id) == [parent] and store.read(parent.id)[0].children == ["a", "b"]
    assert not store.read(lone.id)[0].children


def test_a_database_row_without_children_has_the_form_of_earlier_releases(tmp_path: Path) -> None:
    store = open_store("file://results", base=tmp_path)
    assert store is not None
    store.write([outcome("lone"), outcome("parent", children=["a"])])
    store.close()
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as connection:
        rows = dict(connection.execute("SELECT id, record FROM outcomes").fetchall())
    connection.close()
    assert {name: len(msgspec.json.decode(row)) for name, row in rows.items()} == {"lone": 9, "parent": 10}


def test_what_is_forgotten_is_gone_and_nothing_else(store: ResultStore) -> None:
    store.forget("never-there")
    mine = [outcome("one", group="a"), outcome("one", group="b"), outcome("two", group="a")]
    store.write(mine)
    store.forget("one", "a")
    assert store.read("one") == [mine[1]] and store.read("two") == [mine[2]]
    store.write([mine[0]])
    store.forget("one")
    assert store.read("one") == [] and store.read("two") == [mine[2]]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 127, 128, 129, 1000])
def test_batches_of_any_size_are_kept_whole(store: ResultStore, size: int) -> None:
    batch = [outcome(new_id()) for _ in range(size)]
    store.write(batch)
    assert [store.read(one.id) for one in batch] == [[one] for one in batch]


@pytest.mark.parametrize(
    "message_id", [".", "..", "...", "a:b", "-", ".hidden", "x" * 128, "A.tmp", "../up", "a/b", "ü", "%41"]
)
def test_ids_and_groups_of_any_form_keep_apart(store: ResultStore, tmp_path: Path, message_id: str) -> None:
    mine, other = outcome(message_id, group=".."), outcome(message_id, group="." * 3)
    store.write([mine, other, outcome("A", group="..")])
    assert store.read(message_id, "..") == [mine]
    assert store.read(message_id, "...") == [other]
    assert {path.name for path in tmp_path.iterdir()} <= {"results"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MS = st.integers(0, 2**53 - 1)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
OUTCOMES = st.builds(
    Outcome,
    id=st.from_regex(r"\A[A-Za-z0-9._:-]{1,128}\Z"),
    group=st.from_regex(r"\A[A-Za-z0-9._:-]{1,40}\Z"),
    handler=TEXT,
    state=TEXT,
    delivery=st.integers(1, 2**31),
    attempts=st.integers(1, 2**31),
    sent_ms=MS,
    started_ms=MS,
    finished_ms=st.integers(0, 2**43),
    worker=TEXT,
    value=VALUES.map(lambda value: msgspec.Raw(encode_json(value))),
    error=st.none() | st.builds(Failure, type=TEXT, message=TEXT, traceback=TEXT),
    request_id=st.none() | TEXT,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=OUTCOMES)
def test_every_field_survives(store: ResultStore, kept: Outcome) -> None:
    later = msgspec.structs.replace(kept, delivery=2**32, id=f"p{kept.id}"[:128], group=new_id())
    store.write([later])
    assert store.read(later.id, later.group) == [later]


def test_text_that_utf8_cannot_carry_is_escaped_not_lost(store: ResultStore) -> None:
    message_id = new_id()
    error = Failure("OSError", "no such file: caf\udce9", "Traceback \udce9")
    store.write([outcome(message_id, state=FAILURE, error=error)])
    assert store.read(message_id)[0].error == Failure("OSError", "no such file: caf\\udce9", "Traceback \\udce9")


def test_values_of_megabytes_are_kept(store: ResultStore) -> None:
    message_id = new_id()
    value = msgspec.Raw(encode_json("x" * 3_000_000))
    store.write([outcome(message_id, value=value)])
    assert store.read(message_id)[0].value == value


@pytest.mark.parametrize(
    "text",
    ["x" * 8_000, "x" * 50_000, "€\U0001f600" * 20_000, os.urandom(50_000).hex()],
    ids=["small", "large", "wide", "noise"],
)
def test_values_of_any_size_come_back_by_every_way_of_keeping_them(store: ResultStore, text: str) -> None:
    value = msgspec.Raw(encode_json(text))
    first, second = outcome(new_id(), value=value), outcome(new_id())
    store.write([first, second, outcome(new_id(), value=value, delivery=2)])
    assert store.read(first.id) == [first]
    assert store.read(second.id) == [second]


@pytest.mark.parametrize("store", ["file", "redis"], indirect=True)
def test_large_values_are_compressed_and_small_ones_are_not(
    store: ResultStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def kept(text: str) -> bytes:
        """The record as it is in the store."""
        one = outcome(new_id(), value=msgspec.Raw(encode_json(text)))
        store.write([one])
        assert store.read(one.id) == [one]
        if store.url.startswith("redis"):
            client = request.getfixturevalue("redis_client")
            found: bytes = client.hget(f"ts:{{{one.id}}}:outcomes", one.group)
            return found
        with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as connection:
            ((record,),) = connection.execute("SELECT record FROM outcomes WHERE id = ?", (one.id,)).fetchall()
        connection.close()
        return record.encode() if isinstance(record, str) else record

    words = "all work and no play "
    assert words.encode() in kept(words * 100)
    assert len(kept(words * 1000)) < 1000
    assert words.encode() not in kept(words * 1000)


def test_a_compressed_record_that_is_damaged_says_so(tmp_path: Path) -> None:
    store = open_store("file://results", base=tmp_path)
    assert store is not None
    one = outcome(new_id(), value=msgspec.Raw(encode_json("x" * 50_000)))
    store.write([one])
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as connection:
        connection.execute("UPDATE outcomes SET record = CAST(substr(record, 1, length(record) - 9) AS BLOB)")
    connection.close()
    with pytest.raises(ResultUnavailable, match="damaged record"):
        store.read(one.id)
    store.write([one])
    assert store.read(one.id) == [one]
    store.close()


def test_threads_write_and_read_at_the_same_time(store: ResultStore) -> None:
    ids = [[new_id() for _ in range(200)] for _ in range(4)]
    problems: list[BaseException] = []

    def work(mine: list[str]) -> None:
        try:
            for start in range(0, 200, 20):
                store.write([outcome(message_id) for message_id in mine[start : start + 20]])
                assert len(store.read(mine[start])) == 1
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert all(store.read(message_id) for mine in ids for message_id in mine)


@pytest.fixture(params=["file", "json"])
def disk_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultStore]:
    opened = open_store(f"{request.param}://results", base=tmp_path, retention=7 * 86_400)
    assert opened is not None
    yield opened
    opened.close()


def test_sweep_deletes_what_is_older_than_the_retention_in_bounded_portions(disk_store: ResultStore) -> None:
    old = [outcome(new_id(), finished_ms=NOW_MS - 8 * DAY_MS) for _ in range(1200)]
    young = [outcome(new_id(), finished_ms=NOW_MS - 6 * DAY_MS) for _ in range(10)]
    disk_store.write(old + young)
    assert disk_store.sweep(NOW_MS, limit=700) == 700
    assert disk_store.sweep(NOW_MS) == 500
    assert disk_store.sweep(NOW_MS) == 0
    assert not any(disk_store.read(one.id) for one in old)
    assert all(disk_store.read(one.id) for one in young)


def test_nothing_is_made_before_the_first_write(disk_store: ResultStore, tmp_path: Path) -> None:
    assert disk_store.read(new_id()) == []
    assert disk_store.sweep(NOW_MS) == 0
    assert list(tmp_path.iterdir()) == []


def test_redis_outcomes_end_with_the_retention(broker_url: str, redis_client: object, tmp_path: Path) -> None:
    store = open_store(broker_url, base=tmp_path, retention=100)
    assert store is not None
    message_id = new_id()
    store.write([outcome(message_id)])
    ttl = redis_client.pttl(f"ts:{{{message_id}}}:outcomes")  # type: ignore[attr-defined]
    assert 90_000 < ttl <= 100_000
    assert store.sweep(NOW_MS) == 0
    store.close()


def test_urls_say_where_the_folder_is(tmp_path: Path) -> None:
    relative, absolute = (
        open_store("file://results/a", base=tmp_path),
        open_store(f"json://{tmp_path}/b", base=Path("/nowhere")),
    )
    assert relative is not None
    assert absolute is not None
    assert relative.url == f"file://{tmp_path}/results/a"
    assert absolute.url == f"json://{tmp_path}/b"


@pytest.mark.parametrize("url", [None, "null"])
def test_no_results_are_kept_where_none_are_wanted(url: str | None, tmp_path: Path) -> None:
    assert open_store(url, base=tmp_path) is None


@pytest.mark.parametrize(
    "url", ["", "results", "file://", "json:results", "http://x", "sqlite:///x", "redis:/x", "file://a\0b"]
)
def test_a_url_that_cannot_be_used_is_one_clear_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"results URL .* use file://FOLDER") as raised:
        open_store(url, base=tmp_path)
    assert "\n" not in str(raised.value)


def test_settings_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    check: Callable[..., object] = open_store
    with pytest.raises(ConfigError, match="retention"):
        check("file://results", base=tmp_path, retention=0)
    with pytest.raises(ConfigError, match="commit, checkpoint"):
        check("file://results", base=tmp_path, fsync="never")
