"""``json://``: one readable JSON file per outcome, ``<folder>/<group>/<id>.json``.

Files appear whole or not at all, and never go back to an earlier delivery. Several processes of a host may
share the folder; a lock file orders them for the moment of the renames. For people and tools that want
files; the SQLite store is several times as fast.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import msgspec

from taskstream.errors import ResultUnavailable
from taskstream.logs import engine_logger
from taskstream.message import MESSAGE_ID, new_id
from taskstream.results.base import Outcome
from taskstream.results.encoding import from_json, to_pretty_json
from taskstream.results.errors import ResultStoreError, remedy
from taskstream.results.files import locked, make_folder, sync_folder

SUFFIX = ".json"
_UNFINISHED = ".tmp"  # ids never end a file's name, so no outcome looks like this

ORPHAN_AGE_S = 3600.0
"""A temporary file that old was left by a process that died; the sweep removes it."""

_SWEEP_CHUNK = 200
_LOCK = ".lock"

_log = engine_logger("results")


class JsonFileStore:
    """See the module."""

    def __init__(self, folder: Path, *, retention: float, fsync: str) -> None:
        """``retention`` in seconds; ``fsync`` is ``commit`` (each write on disk) or ``checkpoint``."""
        self.url = f"json://{folder}"
        self._folder = folder
        self._retention_ms = int(retention * 1000)
        self._fsync = fsync == "commit"

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Keep a batch: all files written aside first, then renamed under the lock. Raises ResultStoreError."""
        written: list[tuple[Outcome, Path, Path]] = []
        try:
            try:
                for outcome in outcomes:
                    written.append(self._write_aside(outcome))
                if written:
                    with locked(self._folder / _LOCK):
                        for outcome, temporary, target in written:
                            if _delivery_in(target) <= outcome.delivery:
                                os.replace(temporary, target)
                if self._fsync:
                    for folder in {target.parent for _, _, target in written}:
                        sync_folder(folder)
            finally:
                for _, temporary, _ in written:
                    with suppress(FileNotFoundError):
                        temporary.unlink()
        except OSError as error:
            raise self._problem(error) from error

    def _write_aside(self, outcome: Outcome) -> tuple[Outcome, Path, Path]:
        target = self._file(outcome.id, outcome.group)
        temporary = target.with_name(f".{new_id()}{_UNFINISHED}")
        text = to_pretty_json(outcome)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            make_folder(target.parent)
            descriptor = os.open(temporary, flags, 0o666)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                rest = memoryview(text)
                while rest:
                    rest = rest[file.write(rest) :]
                if self._fsync:
                    os.fsync(descriptor)
            # The file's time is the outcome's, for people who list the folder and for the sweep.
            os.utime(temporary, ns=(outcome.finished_ms * 1_000_000,) * 2)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return outcome, temporary, target

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        """The outcomes of a message. Raises ResultUnavailable."""
        found = []
        try:
            groups = [_file_name(group)] if group is not None else self._group_folders()
            for name in groups:
                path = self._folder / name / f"{_file_name(message_id)}{SUFFIX}"
                with suppress(FileNotFoundError, NotADirectoryError):
                    found.append(from_json(path.read_bytes()))
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise ResultUnavailable(f"result of {message_id} in {self._folder} cannot be read: {error}") from error
        return found

    def forget(self, message_id: str, group: str | None = None) -> None:
        """Delete the outcomes of a message. Raises ResultUnavailable."""
        try:
            with suppress(FileNotFoundError):
                for name in [_file_name(group)] if group is not None else self._group_folders():
                    path = self._folder / name / f"{_file_name(message_id)}{SUFFIX}"
                    if path.exists():
                        with locked(self._folder / _LOCK):
                            path.unlink(missing_ok=True)
        except OSError as error:
            raise ResultUnavailable(f"result of {message_id} in {self._folder} cannot be deleted: {error}") from error

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        """Delete outcomes older than the retention, and what dead processes left unfinished."""
        oldest_ns = (now_ms - self._retention_ms) * 1_000_000
        deleted = 0
        expired: list[Path] = []
        try:
            for path in self._expired(now_ms, oldest_ns):
                expired.append(path)
                if len(expired) == min(_SWEEP_CHUNK, limit - deleted):
                    deleted += self._delete(expired, oldest_ns)
                    expired = []
                    if deleted >= limit:
                        return deleted
            return deleted + self._delete(expired, oldest_ns)
        except OSError as error:
            raise self._problem(error) from error

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _expired(self, now_ms: int, oldest_ns: int) -> Iterator[Path]:
        for name in self._group_folders():
            with suppress(FileNotFoundError), os.scandir(self._folder / name) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found = entry.stat()
                        if entry.name.endswith(SUFFIX) and found.st_mtime_ns < oldest_ns:
                            yield Path(entry.path)
                        # ctime: when the file was last touched, whatever time its outcome carries.
                        elif entry.name.endswith(_UNFINISHED) and now_ms / 1000 - found.st_ctime > ORPHAN_AGE_S:
                            os.unlink(entry.path)

    def _delete(self, paths: Sequence[Path], oldest_ns: int) -> int:
        if not paths:
            return 0
        deleted = 0
        with locked(self._folder / _LOCK):  # a later outcome may have replaced one since it was listed
            for path in paths:
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime_ns < oldest_ns:
                        path.unlink()
                        deleted += 1
        return deleted

    def _group_folders(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def _file(self, message_id: str, group: str) -> Path:
        return self._folder / _file_name(group) / f"{_file_name(message_id)}{SUFFIX}"

    def _problem(self, error: OSError) -> ResultStoreError:
        return ResultStoreError(
            error.errno or errno.EIO,
            f"result files: {remedy(error)}",
            str(error.filename or self._folder),
        )


def _file_name(text: str) -> str:
    """An id or group as the name of a file or folder.

    What follows the name rules is its own name, but for "." and "..". Entries of foreign producers may carry
    any id: it is percent-encoded, so that it can neither leave the folder nor be taken for another.
    """
    if MESSAGE_ID.fullmatch(text) and text not in (".", ".."):
        return text
    name = quote(text, safe="", errors="surrogatepass").replace(".", "%2E")
    return name if len(name) <= 200 else f"%{hashlib.sha256(name.encode()).hexdigest()}"


def _delivery_in(path: Path) -> int:
    """The delivery of the outcome in a file; 0 if there is none, or none that can be read."""
    try:
        return from_json(path.read_bytes()).delivery
    except FileNotFoundError:
        return 0
    except (ValueError, msgspec.DecodeError) as error:
        _log.warning(f"result file {path} is damaged and will be replaced: {error}")
        return 0
