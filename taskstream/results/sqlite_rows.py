"""The SQLite store's table: its form, outcomes as rows, one batch as one transaction, and the checkpoint."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import msgspec

from taskstream.results.base import Failure, Outcome
from taskstream.results.encoding import encoded, pack, unpack

SCHEMA = 1
"""Kept in ``user_version``. A higher one in the file was written by a later release and is left alone."""

PAGE_BYTES = 4096
"""Of a database that ``create`` made."""

BUSY_TIMEOUT_S = 10.0
"""How long a transaction waits for those of other processes."""

BUSY_POLL_S = 0.002
"""How long SQLite itself waits, before ``patiently`` asks again. Left alone it sleeps up to 100 ms between two
looks, and of two processes that write all the time one waits for half a second now and then."""

Value = str | int | bytes
"""What a column holds."""

COLUMNS = "id, grp, delivery, finished_ms, record"
_WIDTH = 5

# The fields nobody selects by rest in one JSON text: 13 columns cost 9 to 10 µs of CPU a row, these five
# 6 to 7. The row id keeps the table append-only and the entries of the retention's index small; WITHOUT
# ROWID the same took 10 % more, and random ids of callers several times as much.
_CREATE = (
    """
CREATE TABLE outcomes (
    id TEXT NOT NULL, grp TEXT NOT NULL, delivery INTEGER NOT NULL, finished_ms INTEGER NOT NULL,
    record TEXT NOT NULL, -- [handler, state, attempts, sent_ms, started_ms, worker, value, error, request_id]
    -- and, where there are any, children
    -- as JSON; a large one as BLOB: the same, compressed by zlib
    UNIQUE (id, grp)
)""",
    "CREATE INDEX outcomes_finished ON outcomes (finished_ms)",
    f"PRAGMA user_version = {SCHEMA}",
)

# Statements cover 2**n rows each: one step of SQLite, and so one release of the GIL, serves many rows.
# With executemany every row would wait for the GIL again while other threads are busy.
_LARGEST = 128


def _insert(rows: int) -> str:
    marks = ", ".join(["(?, ?, ?, ?, ?)"] * rows)
    return (
        f"INSERT INTO outcomes ({COLUMNS}) VALUES {marks} ON CONFLICT (id, grp) DO UPDATE SET "
        "delivery = excluded.delivery, finished_ms = excluded.finished_ms, record = excluded.record "
        "WHERE excluded.delivery >= delivery"
    )


_INSERTS = {2**power: _insert(2**power) for power in range(_LARGEST.bit_length())}

_encode_record = msgspec.json.Encoder().encode
_Record = tuple[str, str, int, int, int, str, msgspec.Raw, Failure | None, str | None]
_decode_record = msgspec.json.Decoder(_Record).decode
_decode_long_record = msgspec.json.Decoder(
    tuple[str, str, int, int, int, str, msgspec.Raw, Failure | None, str | None, list[str]]
).decode


def create(connection: sqlite3.Connection) -> None:
    """Make the table in an empty database. Called while no other process does."""
    patiently(connection, f"PRAGMA page_size = {PAGE_BYTES}")
    patiently(connection, "PRAGMA journal_mode = WAL")
    patiently(connection, "BEGIN IMMEDIATE")
    for statement in _CREATE:
        connection.execute(statement)
    connection.execute("COMMIT")


def parameters(outcomes: Sequence[Outcome]) -> list[Value]:
    """The rows of a batch, one after the other, as ``write`` takes them."""
    values: list[Value] = []
    for outcome in outcomes:
        values += encoded(_row, outcome)
    return values


def _row(outcome: Outcome) -> tuple[str, str, int, int, str | bytes]:
    fields = (
        outcome.handler,
        outcome.state,
        outcome.attempts,
        outcome.sent_ms,
        outcome.started_ms,
        outcome.worker,
        outcome.value,
        outcome.error,
        outcome.request_id,
    )
    record = _encode_record((*fields, outcome.children) if outcome.children else fields)
    return outcome.id, outcome.group, outcome.delivery, outcome.finished_ms, pack(record) or record.decode()


def outcome_of(row: tuple[str, str, int, int, str | bytes]) -> Outcome:
    """The outcome in a row of COLUMNS. Raises msgspec.DecodeError if it is not ours."""
    message_id, group, delivery, finished_ms, record = row
    if isinstance(record, bytes):
        record = unpack(record)
    children: list[str] | msgspec.UnsetType = msgspec.UNSET
    try:
        fields = _decode_record(record)
    except msgspec.ValidationError:
        *rest, children = _decode_long_record(record)
        fields = cast(_Record, rest)
    handler, state, attempts, sent_ms, started_ms, worker, value, error, request_id = fields
    return Outcome(
        id=message_id,
        group=group,
        handler=handler,
        state=state,
        delivery=delivery,
        attempts=attempts,
        sent_ms=sent_ms,
        started_ms=started_ms,
        finished_ms=finished_ms,
        worker=worker,
        value=value,
        error=error,
        request_id=request_id,
        children=children,
    )


def patiently(connection: sqlite3.Connection, statement: str, values: Sequence[Value] = ()) -> sqlite3.Cursor:
    """Execute a statement that may have to wait for other processes, 10 s at most. Raises sqlite3.Error."""
    deadline: float | None = None
    while True:
        try:
            return connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            # The waiting was done inside SQLite (BUSY_POLL_S), without the GIL and under gevent too.
            deadline = deadline or time.monotonic() + BUSY_TIMEOUT_S
            if time.monotonic() > deadline:
                raise


def write(connection: sqlite3.Connection, values: list[Value]) -> None:
    """Keep a batch in one transaction. Raises sqlite3.Error with nothing of it kept."""
    patiently(connection, "BEGIN IMMEDIATE")
    try:
        start = 0
        while start < len(values):
            rows = min(_LARGEST, 1 << ((len(values) - start) // _WIDTH).bit_length() - 1)
            end = start + rows * _WIDTH
            connection.execute(_INSERTS[rows], values[start:end])
            start = end
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors (disk full, I/O); a second rollback is an error.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def log_bytes(values: Sequence[Value]) -> int:
    """About how much a batch adds to the write-ahead log: its rows, and three pages at the tables' ends."""
    return 3 * PAGE_BYTES + 60 * len(values) + sum(map(len, values[4::_WIDTH]))  # type: ignore[arg-type]


def copy(connection: sqlite3.Connection, target: Path) -> None:
    """A database at ``target`` (there is none yet) with all that ``connection`` sees, on the disk."""
    with closing(sqlite3.connect(target, isolation_level=None)) as made:
        connection.backup(made)
        made.execute("PRAGMA journal_mode = WAL")  # its log is gone again when it is closed


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the log into the database, so that the log starts at its beginning again.

    The bulk is copied while others write on (PASSIVE). Only if they did so meanwhile, the rest is copied
    with writers waiting (RESTART); otherwise a busy host's log would grow for ever. The outcomes are safe
    before this, so an error here is nobody's but the next write's.
    """
    with suppress(sqlite3.Error):
        _, pages, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if copied < pages:
            connection.execute("PRAGMA busy_timeout = 100")
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            connection.execute(f"PRAGMA busy_timeout = {int(BUSY_POLL_S * 1000)}")
