"""What the outbox's file keeps of a message that is not plain, and what is left of its times when it is sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from taskstream.broker import Broker, Envelope
from taskstream.broker.publisher import Sent
from taskstream.message import Message
from taskstream.outbox import flusher
from taskstream.outbox.flusher import Flusher
from taskstream.outbox.rows import FORM, Rows

ONE = Message("a", "n", b"{}", {"ts-order": "k"}, priority=2, expires_in_ms=60_000)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path / "shop.sqlite3")
    yield made
    made.close()


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("s", ONE, ("id:a",), 7, ordering_key="k"),
        Envelope("s", ONE, ("id:a", "task:d"), delay_ms=5000),
        Envelope("s", ONE, ("id:a",), due_ms=5000),
    ],
)
def test_all_that_is_said_is_kept(rows: Rows, envelope: Envelope) -> None:
    rows.add([envelope], 0, tried=False)
    assert [row.envelope for row in rows.head("s", 10)] == [envelope]


class FakeBroker:
    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    def try_many(self, envelopes: Sequence[Envelope], *, in_order: bool = False) -> Sent:
        self.sent += envelopes
        return Sent([one.message.id for one in envelopes])


@pytest.mark.parametrize(
    ("waited_ms", "delay_ms", "expires_in_ms"),
    [(0, 5000, 60_000), (2000, 3000, 58_000), (10**7, 0, 0), (-500, 5000, 60_000)],
)
def test_the_time_in_the_outbox_counts(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, waited_ms: int, delay_ms: int, expires_in_ms: int
) -> None:
    # Given one that was to come, and to expire, a while after its call
    broker = FakeBroker()
    rows.add([Envelope("s", ONE, ("id:a",), delay_ms=5000), Envelope("s", ONE, due_ms=7)], 1_000_000, tried=False)
    # When it is sent later; a host's clock may be set back, too
    monkeypatch.setattr(flusher, "now_ms", lambda: 1_000_000 + waited_ms)
    Flusher(rows, lambda: cast(Broker, broker)).flush()
    # Then that much less is left of both
    first, second = broker.sent
    assert (first.delay_ms, first.message.expires_in_ms, first.message.priority) == (delay_ms, expires_in_ms, 2)
    assert (second.delay_ms, second.due_ms) == (None, 7)


def test_a_file_of_the_first_form_is_taken_over(rows: Rows) -> None:
    # Given a file with a message in it, as releases before this one wrote it
    with sqlite3.connect(rows.path) as old:
        old.executescript("""
CREATE TABLE waiting (
    position INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, id TEXT NOT NULL, fields TEXT NOT NULL,
    max_length INTEGER, added_ms INTEGER NOT NULL, tried_ms INTEGER
);
CREATE INDEX waiting_by_stream ON waiting (stream, position);
CREATE TABLE uniques (
    stream TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (stream, name)
) WITHOUT ROWID;
CREATE INDEX uniques_by_position ON uniques (position);
INSERT INTO waiting VALUES (1, 's', 'old', '["v","1","id","old","name","n","body","{}"]', 5, 9, NULL);
PRAGMA user_version = 1;
""")
    old.close()
    # Then it is there, and new ones go behind it
    rows.add([Envelope("s", ONE, delay_ms=5000)], 10, tried=False)
    first, second = rows.head("s", 10)
    assert first.envelope == Envelope("s", Message("old", "n", b"{}"), (), 5) and first.added_ms == 9
    assert second.envelope.delay_ms == 5000
    rows.close()
    with sqlite3.connect(rows.path) as again:
        assert again.execute("PRAGMA user_version").fetchone() == (FORM,)
    again.close()
