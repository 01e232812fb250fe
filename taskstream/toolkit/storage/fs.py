"""``FileStorage``: a folder of JSON files, one per key, for handlers to keep values in.

Files appear whole or not at all. There is no fsync: a file survives the end of every process, but a power cut shortly
after may take it.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from taskstream import dataobjects
from taskstream.errors import ValidationError
from taskstream.whole_file import write_whole

T = TypeVar("T")

SUFFIX = ".json"

_LONGEST = 255 - len(SUFFIX)  # bytes; what the usual file systems take as one name

_WRITERS = 4
_PORTION = 32
"""At most so many threads write so many files each before they report back to the event loop."""

_ATTEMPTS = 3
"""Tries of one write while the folder is deleted underneath."""

_Item = tuple[str, bytes, "asyncio.Future[str]"]


class SyncFileStorage:
    """The storage for ``def`` steps: every method blocks its caller while the disk works."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """``path``: the folder, relative to the working directory; made with the first file."""
        self.path = Path(path)

    def store(self, key: str, value: object) -> str:
        """Keep a dataobject or a plain JSON value under ``key``, in place of what was there; return its path.

        Raises ValidationError for a key that cannot be a file's name and for a value JSON cannot carry,
        OSError where the disk refuses.
        """
        return _write(self._file(key), encode(value))

    def get(self, key: str, datatype: type[T] | Any) -> T | Any | None:
        """The value under ``key`` as ``datatype``, None if there is none.

        Raises ValidationError where the file holds something else, OSError where it cannot be read.
        """
        file = self._file(key)
        try:
            text = Path(file).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return dataobjects.load_json(datatype, text)
        except ValidationError as error:
            raise ValidationError(f"{file}: {error}", error.errors) from None

    def list(self) -> list[str]:
        """All keys, sorted."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(
                    entry.name.removesuffix(SUFFIX)
                    for entry in entries
                    if entry.name.endswith(SUFFIX) and entry.is_file()
                )
        except FileNotFoundError:
            return []

    def delete(self, key: str) -> bool:
        """Remove the value under ``key``; whether there was one."""
        try:
            os.unlink(self._file(key))
        except FileNotFoundError:
            return False
        return True

    def _file(self, key: str) -> str:
        return f"{self.path}/{checked(key)}{SUFFIX}"


class FileStorage:
    """The storage for ``async def`` steps; ``.sync`` is the same folder for ``def`` steps.

    Measured on two busy cores with 100 greenlets storing a small dataobject each (ext4): written in the
    event loop's own thread 61 to 68 µs of CPU a file and 3,500 to 5,700 files/s, by one thread that takes
    what has gathered 63 µs and 6,700 to 8,800/s. With four such threads instead of one the rate rises by
    another third, with more it does not. So files are written in batches by a few threads: it costs no more
    than writing in the loop, and a slow disk holds up those who wait for it, not everybody's coroutines.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """``path``: the folder, relative to the working directory; made with the first file."""
        self.sync = SyncFileStorage(path)
        self._writers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Writer] = weakref.WeakKeyDictionary()

    @property
    def path(self) -> Path:
        """The folder."""
        return self.sync.path

    async def store(self, key: str, value: object) -> str:
        """See SyncFileStorage.store."""
        file, text = self.sync._file(key), encode(value)
        loop = asyncio.get_running_loop()
        writer = self._writers.get(loop)
        if writer is None:
            writer = self._writers[loop] = _Writer()
        return await writer.put(loop, file, text)

    async def get(self, key: str, datatype: type[T] | Any) -> T | Any | None:
        """See SyncFileStorage.get."""
        return await asyncio.to_thread(self.sync.get, key, datatype)

    async def list(self) -> list[str]:
        """See SyncFileStorage.list."""
        return await asyncio.to_thread(self.sync.list)

    async def delete(self, key: str) -> bool:
        """See SyncFileStorage.delete."""
        return await asyncio.to_thread(self.sync.delete, key)


class _Writer:
    """Gathers one event loop's files while its threads are busy. Used in that loop's thread only."""

    def __init__(self) -> None:
        self._waiting: deque[_Item] = deque()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds tasks by weak references

    def put(self, loop: asyncio.AbstractEventLoop, file: str, text: bytes) -> asyncio.Future[str]:
        future: asyncio.Future[str] = loop.create_future()
        self._waiting.append((file, text, future))
        if len(self._tasks) < _WRITERS and len(self._waiting) > len(self._tasks) * _PORTION:
            self._tasks.add(loop.create_task(self._work(loop)))
        return future

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        items: list[_Item] = []
        try:
            while self._waiting:
                items = [self._waiting.popleft() for _ in range(min(_PORTION, len(self._waiting)))]
                found = await loop.run_in_executor(None, _write_all, [(file, text) for file, text, _ in items])
                for (_, _, future), result in zip(items, found, strict=True):
                    if future.done():  # its caller was cancelled
                        continue
                    if isinstance(result, BaseException):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
                items = []
        finally:  # cancelled with the loop: nobody may wait for ever
            for _, _, future in items:
                future.cancel()
            # Here and not in a done callback, which would come later: until then ``put`` would count on this task.
            self._tasks -= {asyncio.current_task()}
            if not self._tasks:
                while self._waiting:
                    self._waiting.popleft()[2].cancel()


def encode(value: object) -> bytes:
    """One line of JSON with a space after each comma and colon. Raises ValidationError."""
    return msgspec.json.format(dataobjects.dump_json(value), indent=0)


def checked(key: object) -> str:
    """``key`` if a file in the folder can be called so. Raises ValidationError."""
    if not isinstance(key, str):
        reason = "it is no text"
    elif not key:
        reason = "it is empty"
    elif "/" in key or "\\" in key:
        reason = "it would be in another folder"
    elif any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in key):
        reason = "it holds characters that file names should not have"
    elif len(key.encode()) > _LONGEST:
        reason = f"it is longer than {_LONGEST} bytes"
    else:
        return key
    shown = repr(key) if len(repr(key)) <= 80 else f"{repr(key)[:80]}…"
    raise ValidationError(f"key {shown} cannot be the name of a file: {reason}", {"key": reason})


def _write_all(files: list[tuple[str, bytes]]) -> list[str | BaseException]:
    found: list[str | BaseException] = []
    for file, text in files:
        try:
            found.append(_write(file, text))
        except Exception as error:
            found.append(error)
    return found


def _write(file: str, text: bytes) -> str:
    """Put ``text`` under its name whole; returns ``file``. Raises OSError."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            write_whole(file, text)
        except FileNotFoundError:  # no folder yet, or none any more
            if attempt == _ATTEMPTS:
                raise
            os.makedirs(os.path.dirname(file), exist_ok=True)
        else:
            break
    return file
