"""The outbox's file: messages that wait for Redis, in a SQLite database that the processes of a host share.

Every change is one transaction that is on the disk when it returns. Knows nothing about sending. SQLite's log needs
shared memory: the folder has to be on a local disk (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from taskstream.broker import Envelope
from taskstream.errors import InvalidMessage, TaskstreamError
from taskstream.message import fields_json, from_fields_json
from taskstream.results.files import locked, make_folder, sync_folder
from taskstream.results.sqlite_rows import BUSY_POLL_S, BUSY_TIMEOUT_S, patiently

FORM = 2
"""Version of the tables."""

_TABLES = (
    """
CREATE TABLE waiting (
    position INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, id TEXT NOT NULL, fields TEXT NOT NULL,
    max_length INTEGER, added_ms INTEGER NOT NULL, tried_ms INTEGER, delay_ms INTEGER, due_ms INTEGER, ordering_key TEXT
)""",
    "CREATE INDEX waiting_by_stream ON waiting (stream, position)",
    """
CREATE TABLE uniques (
    stream TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (stream, name)
) WITHOUT ROWID""",
    "CREATE INDEX uniques_by_position ON uniques (position)",
    f"PRAGMA user_version = {FORM}",
)

_UPGRADE = (
    "ALTER TABLE waiting ADD COLUMN delay_ms INTEGER",
    "ALTER TABLE waiting ADD COLUMN due_ms INTEGER",
    "ALTER TABLE waiting ADD COLUMN ordering_key TEXT",
    f"PRAGMA user_version = {FORM}",
)
"""From version 1."""

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the folder's permissions",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that the folder exists and its permissions",
    sqlite3.SQLITE_PERM: "access is denied: check the folder's permissions",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {BUSY_TIMEOUT_S:.0f} s",
    sqlite3.SQLITE_IOERR: "reading or writing it failed: check the disk",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away; messages in it that were not sent are only there",
    sqlite3.SQLITE_NOTADB: "it is no database: move it away",
}

_left_to_parents: list[sqlite3.Connection] = []
"""Connections that a fork brought along. Closing one here could undo what the parent has locked."""


class OutboxProblem(TaskstreamError):
    """The outbox cannot be read or written; its text names the file and the remedy. Nothing was changed."""


class Row(NamedTuple):
    """One message that waits.

    ``added_ms`` when it came; ``tried_ms`` when it was last sent without an answer, None if it surely is not in
    Redis. Both by this host's clock, ms since the epoch.
    """

    position: int
    envelope: Envelope
    added_ms: int
    tried_ms: int | None


class Waiting(NamedTuple):
    """How many messages wait for one stream; ``oldest_ms`` is when the first of them came."""

    stream: str
    messages: int
    oldest_ms: int


class Rows:
    """See the module. Thread-safe: one connection, one user at a time. Methods raise OutboxProblem."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the connection; that of a parent process is its own."""
        old = getattr(self, "_connection", None)
        if old is not None:
            _left_to_parents.append(old)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def waits(self, streams: Iterable[str]) -> bool:
        """Whether something waits for one of ``streams``."""
        with self._open() as connection:
            return any(
                patiently(connection, "SELECT 1 FROM waiting WHERE stream = ? LIMIT 1", (stream,)).fetchone()
                for stream in streams
            )

    def overview(self) -> list[Waiting]:
        """What waits, by stream, the one that waits longest first; empty where there is no file, which is not made."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            question = "SELECT stream, count(*), min(added_ms) FROM waiting GROUP BY stream ORDER BY min(position)"
            return [Waiting(*row) for row in patiently(connection, question).fetchall()]

    def streams(self) -> list[str]:
        """The streams that something waits for; looks at no row twice, however many there are."""
        found: list[str] = []
        if not self.path.exists():
            return found
        with self._open() as connection:
            question = "SELECT min(stream) FROM waiting WHERE stream > ?"
            while name := patiently(connection, question, (found[-1] if found else "",)).fetchone()[0]:
                found.append(name)
        return found

    def add(self, envelopes: Sequence[Envelope], now_ms: int, tried: bool) -> list[str]:
        """Keep messages in order, in one transaction; return their ids.

        One that waits already under the same unique name is not kept again: its id is returned. ``tried``: they may
        be in Redis already.
        """
        with self._open() as connection, _transaction(connection):
            return [self._add(connection, envelope, now_ms, now_ms if tried else None) for envelope in envelopes]

    def _add(self, connection: sqlite3.Connection, envelope: Envelope, now_ms: int, tried_ms: int | None) -> str:
        for name in envelope.uniques:
            found = connection.execute(
                "SELECT id FROM uniques JOIN waiting USING (position) WHERE uniques.stream = ? AND name = ?",
                (envelope.stream, name),
            ).fetchone()
            if found is not None:
                return str(found[0])
        message = envelope.message
        position = connection.execute(
            "INSERT INTO waiting (stream, id, fields, max_length, added_ms, tried_ms, delay_ms, due_ms, ordering_key) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(envelope.stream, message.id, fields_json(message), envelope.max_length, now_ms, tried_ms),
                *(envelope.delay_ms, envelope.due_ms, envelope.ordering_key),
            ),
        ).lastrowid
        connection.executemany(
            "INSERT INTO uniques (stream, name, position) VALUES (?, ?, ?)",
            [(envelope.stream, name, position) for name in envelope.uniques],
        )
        return message.id

    def head(self, stream: str, limit: int) -> list[Row]:
        """The first messages that wait for ``stream``."""
        with self._open() as connection:
            question = (
                "SELECT position, added_ms, tried_ms, fields, max_length, delay_ms, due_ms, ordering_key FROM waiting "
                "WHERE stream = ? ORDER BY position LIMIT ?"
            )
            found = patiently(connection, question, (stream, limit)).fetchall()
            rows = []
            for position, added_ms, tried_ms, fields, *rest in found:
                names = connection.execute("SELECT name FROM uniques WHERE position = ? ORDER BY name", (position,))
                uniques = tuple(name for (name,) in names)
                try:
                    envelope = Envelope(stream, from_fields_json(fields), uniques, *rest)
                except InvalidMessage as error:
                    raise OutboxProblem(f"outbox {self.path}: row {position} of it is damaged: {error}") from None
                rows.append(Row(position, envelope, added_ms, tried_ms))
            return rows

    def mark_tried(self, positions: Sequence[int], now_ms: int) -> None:
        """These were sent without an answer, and may be in Redis."""
        with self._open() as connection, _transaction(connection):
            connection.executemany(
                "UPDATE waiting SET tried_ms = ? WHERE position = ?", [(now_ms, position) for position in positions]
            )

    def remove(self, sent: Sequence[tuple[int, str]]) -> None:
        """These, by position and message id, are in Redis for certain. In a file made anew others have their places."""
        with self._open() as connection, _transaction(connection):
            connection.executemany("DELETE FROM waiting WHERE position = ? AND id = ?", sent)
            connection.executemany(
                "DELETE FROM uniques WHERE position = ?1 AND NOT EXISTS (SELECT 1 FROM waiting WHERE position = ?1)",
                [(position,) for position, _ in sent],
            )

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is not None and self._identity != _identity(self.path):
                    self.close()  # somebody moved or deleted the file: what is written to it now, nobody would find
                if self._connection is None:
                    self._connection = self._connect()
                    self._identity = _identity(self.path)
                yield self._connection
                if self._identity != _identity(self.path):
                    self.close()
                    raise OutboxProblem(f"outbox {self.path}: the file was moved or deleted while it was used")
            except (sqlite3.Error, OSError) as error:
                if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                    self.close()  # after a full disk it can still be read, but perhaps not be opened again
                raise OutboxProblem(f"outbox {self.path}: {_reason(error)}") from error

    def _connect(self) -> sqlite3.Connection:
        folder = self.path.parent
        make_folder(folder)
        # Two processes that start at once must not both make the tables.
        with locked(self.path.with_suffix(".lock")):
            connection = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode=rwc",
                uri=True,
                timeout=BUSY_POLL_S,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                version = patiently(connection, "PRAGMA user_version").fetchone()[0]
                if version > FORM:
                    raise OutboxProblem(f"outbox {self.path}: a later release wrote it: upgrade Taskstream")
                patiently(connection, "PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                if version < FORM:
                    with _transaction(connection):
                        for statement in _UPGRADE if version else _TABLES:
                            connection.execute(statement)
                    sync_folder(folder)
            except BaseException:
                connection.close()
                raise
        return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, on the disk at the end."""
    patiently(connection, "BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _reason(error: sqlite3.Error | OSError) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _REMEDIES:
        return f"{_REMEDIES[code & 0xFF]} ({error})"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
