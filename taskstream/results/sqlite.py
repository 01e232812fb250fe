"""``file://``: outcomes in one SQLite database of a folder, shared by all processes of this host.

A batch is one short transaction of a few statements. The table is append-only in practice and its ids are
time-ordered, so that a batch touches few pages. Nothing here runs in the background: the caller's thread
(the worker calls from gevent's thread pool) does the write-ahead log's checkpoints in bounded portions.

The folder holds ``results.sqlite3`` (with ``-wal`` and ``-shm``), ``results.lock``, and what was found
damaged as ``results.damaged-<time>.sqlite3``. SQLite's log needs shared memory: the folder has to be on a
local disk, not on a network file system (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import msgspec

from taskstream.errors import ConfigError, ResultUnavailable
from taskstream.logs import engine_logger
from taskstream.results import sqlite_rows
from taskstream.results.base import Outcome
from taskstream.results.errors import ResultStoreError, remedy
from taskstream.results.files import locked, make_folder, sync_folder
from taskstream.results.sqlite_rows import BUSY_POLL_S, BUSY_TIMEOUT_S, COLUMNS, PAGE_BYTES, SCHEMA, patiently

CHECKPOINT_BYTES = 8 * 1024 * 1024
"""About how much a process writes to the log between two checkpoints; bounds the log per process."""

SWEEP_CHUNK = 500
"""Rows deleted per transaction, so that a sweep never keeps writers waiting for long."""

ATTEMPTS = 3
"""Tries of one batch when the database is found damaged, moved or deleted underneath."""

_HEADER_BYTES = 100
"""A shorter file is an empty one to SQLite."""

_TORN_S = 0.05

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_NO_SHARED_MEMORY = (
    errno.ENOTSUP,
    "this file system lacks shared memory or locks: use a folder on a local disk, or json:// or redis:// for results",
)

_REMEDIES = {
    sqlite3.SQLITE_FULL: (errno.ENOSPC, "the disk is full: free some space"),
    sqlite3.SQLITE_IOERR_SHMSIZE: (errno.ENOSPC, "the disk is full or errs: free some space, then check it"),
    sqlite3.SQLITE_IOERR_SHMMAP: _NO_SHARED_MEMORY,
    sqlite3.SQLITE_IOERR_SHMLOCK: _NO_SHARED_MEMORY,
    sqlite3.SQLITE_PROTOCOL: _NO_SHARED_MEMORY,
    sqlite3.SQLITE_READONLY: (errno.EROFS, "it cannot be written: check the folder's permissions"),
    sqlite3.SQLITE_CANTOPEN: (errno.EACCES, "it cannot be opened: check that the folder exists and its permissions"),
    sqlite3.SQLITE_PERM: (errno.EACCES, "access is denied: check the folder's permissions"),
    sqlite3.SQLITE_BUSY: (errno.EBUSY, f"another process has kept it locked for {BUSY_TIMEOUT_S:.0f} s"),
    sqlite3.SQLITE_IOERR: (errno.EIO, "reading or writing it failed: check the disk and its quota"),
}

_log = engine_logger("results")

_Identity = tuple[int, int]
"""Device and inode of a file."""


class _Newer(Exception):
    """The database was written by a later release."""


class _Session:
    """A connection and the files it has open: the database and its log."""

    __slots__ = ("connection", "identity", "log")

    def __init__(self, connection: sqlite3.Connection, identity: _Identity | None, log: _Identity | None) -> None:
        self.connection = connection
        self.identity = identity
        self.log = log

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.connection.close()


class SqliteStore:
    """See the module. Connections are taken from an idle list and put back; no lock is held around them."""

    def __init__(self, folder: Path, *, retention: float, fsync: str) -> None:
        """``retention`` in seconds; ``fsync`` is ``commit`` (each write on disk) or ``checkpoint``."""
        self.url = f"file://{folder}"
        self._folder = folder
        self._path = folder / "results.sqlite3"
        self._log_path = folder / "results.sqlite3-wal"
        self._retention_ms = int(retention * 1000)
        self._synchronous = "FULL" if fsync == "commit" else "NORMAL"
        self._idle: deque[_Session] = deque()
        self._log_bytes = 0

    def check(self) -> None:
        """Look at an existing database: start a new one if it is damaged, so that the first write is quick.

        Raises ConfigError if a later release wrote it. Whatever else is wrong, the first write reports.
        """
        try:
            if self._identity() is not None:
                self._release(self._open_for_writing(None))
        except _Newer as error:
            raise ConfigError(str(error)) from None
        except (sqlite3.Error, OSError) as error:
            _log.warning(str(self._problem(error)))

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Keep a batch in one transaction. Raises ResultStoreError; writing the batch again is safe."""
        if not outcomes:
            return
        values = sqlite_rows.parameters(outcomes)
        damaged: _Identity | None = None
        problem: Exception = FileNotFoundError(errno.ENOENT, "the folder is deleted again and again")
        for _ in range(ATTEMPTS):
            session: _Session | None = None
            try:
                session = self._take() or self._open_for_writing(damaged)
                sqlite_rows.write(session.connection, values)
                kept = session.identity == self._identity() and self._has_its_log(session)
            except _Newer as error:
                raise ResultStoreError(str(error)) from None
            except (sqlite3.Error, OSError) as error:
                self._drop(session)
                problem = error
                if session is not None and _is_damage(error):
                    damaged = session.identity
                elif not isinstance(error, FileNotFoundError):
                    break
                continue
            if not kept:
                # Written to a file that was moved or deleted meanwhile, where nobody would find it.
                self._drop(session)
                continue
            self._log_bytes += sqlite_rows.log_bytes(values)
            if self._log_bytes >= CHECKPOINT_BYTES:
                self._log_bytes = 0
                sqlite_rows.checkpoint(session.connection)
            self._release(session)
            return
        raise self._problem(problem) from problem

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        """The outcomes of a message; waits for no writer. Raises ResultUnavailable."""
        question, values = _of_message(f"SELECT {COLUMNS} FROM outcomes", message_id, group)
        session: _Session | None = None
        try:
            session = self._take() or self._open_for_reading()
            if session is None:
                return []
            rows = patiently(session.connection, question, values).fetchall()
            self._release(session)
            return [sqlite_rows.outcome_of(row) for row in rows]
        except (sqlite3.Error, OSError, UnicodeError, msgspec.DecodeError, _Newer) as error:
            self._drop(session)
            raise ResultUnavailable(str(self._problem(error))) from error

    def forget(self, message_id: str, group: str | None = None) -> None:
        """Delete the outcomes of a message. Raises ResultUnavailable."""
        question, values = _of_message("DELETE FROM outcomes", message_id, group)
        session: _Session | None = None
        try:
            if self._identity() is None:
                return
            session = self._take() or self._open_for_writing(None)
            patiently(session.connection, question, values)
            self._release(session)
        except (sqlite3.Error, OSError, _Newer) as error:
            self._drop(session)
            raise ResultUnavailable(str(self._problem(error))) from error

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        """Delete outcomes older than the retention, oldest first, in small transactions.

        Their pages are used again; the file does not shrink. Raises ResultStoreError.
        """
        deleted = 0
        session: _Session | None = None
        try:
            if self._identity() is None:
                return 0
            session = self._take() or self._open_for_writing(None)
            while deleted < limit:
                portion = min(SWEEP_CHUNK, limit - deleted)
                count = patiently(
                    session.connection,
                    "DELETE FROM outcomes WHERE rowid IN "
                    "(SELECT rowid FROM outcomes WHERE finished_ms < ? ORDER BY finished_ms LIMIT ?)",
                    (now_ms - self._retention_ms, portion),
                ).rowcount
                deleted += count
                if count < portion:
                    break
                # SQLite's lock is not fair: without a gap longer than their polls, writers would wait for all of it.
                time.sleep(2 * BUSY_POLL_S)
            if deleted:
                sqlite_rows.checkpoint(session.connection)
            self._release(session)
            return deleted
        except (sqlite3.Error, OSError, _Newer) as error:
            self._drop(session)
            raise self._problem(error) from error

    def close(self) -> None:
        """Close idle connections; the last one of all processes folds the log into the database."""
        while (session := self._pop()) is not None:
            session.close()

    # -- connections ---------------------------------------------------------------------------------------

    def _identity(self) -> _Identity | None:
        return _identity_of(self._path)

    def _has_its_log(self, session: _Session) -> bool:
        """Whether the log that a connection writes to is the one that others find.

        If it was deleted underneath, only connections from before still reach what is in it. A copy that holds it all
        takes the database's place; writing on in the same file, by old and new connections, would destroy it.
        """
        if session.log == _identity_of(self._log_path):
            return True
        with locked(self._folder / "results.lock"):
            if session.identity == self._identity():
                copy = self._folder / "results.copy.sqlite3"
                copy.unlink(missing_ok=True)
                sqlite_rows.copy(session.connection, copy)
                for suffix in ("-wal", "-shm"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)
                os.replace(copy, self._path)
                sync_folder(self._folder)
                _log.warning(
                    f"the log of result store {self._path} was deleted while in use: a copy with all it held was made"
                )
        return False

    def _pop(self) -> _Session | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _take(self) -> _Session | None:
        """An idle connection to the file that is there now."""
        identity = self._identity()
        while (session := self._pop()) is not None:
            try:
                if session.identity == identity and self._has_its_log(session):
                    return session
            except BaseException:
                session.close()
                raise
            session.close()
        return None

    def _release(self, session: _Session) -> None:
        self._idle.append(session)

    def _drop(self, session: _Session | None) -> None:
        """After an error every connection is suspect: a full or replaced disk concerns them all."""
        if session is not None:
            session.close()
        self.close()

    def _open_for_reading(self) -> _Session | None:
        """A connection to the database if there is one; makes nothing."""
        identity = self._identity()
        if identity is None:
            return None
        connection = self._connect("rw")
        try:
            if self._identity() != identity or self._version(connection) == 0:
                connection.close()
                return None
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return _Session(connection, identity, _identity_of(self._log_path))

    def _open_for_writing(self, damaged: _Identity | None) -> _Session:
        """A connection to a sound database, made if missing. ``damaged`` is a file known to be beyond use."""
        make_folder(self._folder)
        with locked(self._folder / "results.lock"):
            if damaged is not None and damaged == self._identity():
                self._set_aside("a page of it is malformed")
            try:
                return self._open_sound()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside(str(error))
                return self._open_sound()

    def _open_sound(self) -> _Session:
        if self._ends_amid_a_page():
            error = sqlite3.DatabaseError("its last page is cut short")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        connection = self._connect("rwc")
        try:
            if self._version(connection) == 0:
                sqlite_rows.create(connection)
            self._set_up(connection)
            # Both ends of table and index: finds a truncated file and a table that is not ours.
            patiently(connection, f"SELECT {COLUMNS} FROM outcomes ORDER BY rowid DESC LIMIT 1").fetchall()
            patiently(connection, "SELECT min(finished_ms), max(id) FROM outcomes").fetchall()
        except BaseException:
            connection.close()
            raise
        return _Session(connection, self._identity(), _identity_of(self._log_path))

    def _ends_amid_a_page(self) -> bool:
        """What SQLite does not see, because it takes what is missing of the last page for zeros.

        With a log beside it the page may be in there, and be written again; a page that another process is just
        writing is whole a moment later.
        """

        def torn() -> bool:
            with suppress(FileNotFoundError):
                size = self._path.stat().st_size
                return size > _HEADER_BYTES and size % PAGE_BYTES != 0
            return False

        with suppress(FileNotFoundError):
            if self._log_path.stat().st_size:
                return False
        if not torn():
            return False
        time.sleep(_TORN_S)
        return torn()

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            timeout=BUSY_POLL_S,
            isolation_level=None,
            check_same_thread=False,  # used by one thread at a time: the one that took it from the idle list
        )

    def _version(self, connection: sqlite3.Connection) -> int:
        version: int = patiently(connection, "PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise _Newer(
                f"result store {self._path} was written by a later release of Taskstream (form {version}, this one "
                f"knows {SCHEMA}): upgrade Taskstream or choose another folder"
            )
        return version

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")

    def _set_aside(self, reason: str) -> None:
        """Move the database away, so that new outcomes have a place. Called with the lock held."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self._folder / f"results.damaged-{stamp}-{os.urandom(2).hex()}.sqlite3"
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.rename(f"{self._path}{suffix}", f"{aside}{suffix}")
        _log.error(
            f"result store {self._path} is damaged ({reason}): it was moved to {aside.name} and a new one started; "
            "earlier results are only in the moved file"
        )

    def _problem(self, error: Exception) -> ResultStoreError:
        """The same error as one line that names the store and the remedy."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:
            number, help_text = _REMEDIES.get(code) or _REMEDIES.get(code & 0xFF) or (errno.EIO, None)
            if help_text is not None:
                return ResultStoreError(number, f"result store: {help_text} ({error})", str(self._path))
        if _is_damage(error):
            return ResultStoreError(errno.EIO, f"result store: the database is damaged ({error})", str(self._path))
        if isinstance(error, OSError):
            return ResultStoreError(error.errno or errno.EIO, f"result store: {remedy(error)}", str(self._path))
        return ResultStoreError(errno.EIO, f"result store: {error}", str(self._path))


def _of_message(statement: str, message_id: str, group: str | None) -> tuple[str, list[str]]:
    """``statement`` about the outcomes of a message, of one group or of all, and its parameters."""
    if group is None:
        return f"{statement} WHERE id = ?", [message_id]
    return f"{statement} WHERE id = ? AND grp = ?", [message_id, group]


def _identity_of(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _is_damage(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED
