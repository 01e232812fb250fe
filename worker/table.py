"""The table a worker process shares with its supervisor: its heartbeat, what has started, and until when it may run.

It is a memory map of an anonymous file, so that it survives the process: the supervisor reads from it what
a dead process was running. No full disk can touch it. Only the worker process writes. A slot's number goes
first when it is freed and comes last when it is filled, and the reader compares two looks, so that nobody is blamed
for, or killed over, one half of a message and one half of the next.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

_HEAD = struct.Struct("<dd")  # last heartbeat, shortest hard_timeout of all handlers or 0
_BEAT = struct.Struct("<d")
_ID_SIZE = 128
_TIME = struct.Struct("<d")
_NUMBER = struct.Struct("<I")
# Deadline or 0, hard_timeout, the id (none has a NUL, with which it is filled up), and last, because a struct is packed
# from its front to its end, membership number + 1, 0 while the slot is free.
_FILLED = struct.Struct(f"<dd{_ID_SIZE}sI")
_SLOT = _FILLED.size
_pack_number, _fill = _NUMBER.pack_into, _FILLED.pack_into
_NUMBER_AT = _SLOT - _NUMBER.size


class Started(NamedTuple):
    """A message that has started. ``deadline`` on CLOCK_MONOTONIC (s), 0.0 without a ``hard_timeout`` (s)."""

    membership: int
    message_id: str
    deadline: float = 0.0
    hard_timeout: float = 0.0

    def overdue(self, now: float) -> bool:
        """Whether it has run longer than it may, at monotonic ``now`` (s)."""
        return 0.0 < self.deadline <= now


def create(slots: int) -> IO[bytes]:
    """An anonymous file for ``slots`` messages at once; its descriptor is inherited by the worker process."""
    size = _HEAD.size + slots * _SLOT
    if hasattr(os, "memfd_create"):
        # It lives as long as its child.
        file: IO[bytes] = open(os.memfd_create("taskstream"), "r+b", buffering=0)  # noqa: SIM115
    else:
        import tempfile  # with all that it loads

        file = tempfile.TemporaryFile(prefix="taskstream-", buffering=0)  # noqa: SIM115
    # Written, not truncated to its size: a page that a full disk has no place for is an error here, and SIGBUS later.
    if file.write(bytes(size)) != size:
        file.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return file


class Table:
    """A mapped table."""

    def __init__(self, fd: int, slots: int) -> None:
        self._map = mmap.mmap(fd, _HEAD.size + slots * _SLOT)
        self._places = [_HEAD.size + slot * _SLOT for slot in range(slots)]
        self._numbers = [place + _NUMBER_AT for place in self._places]

    def beat(self, now: float) -> None:
        """Say that the process is alive at boottime ``now`` (s)."""
        _BEAT.pack_into(self._map, 0, now)

    def last_beat(self) -> float:
        """Boottime (s) of the last heartbeat, 0.0 before the first."""
        return float(_BEAT.unpack_from(self._map, 0)[0])

    def limit(self, shortest: float) -> None:
        """Say what the shortest ``hard_timeout`` (s) of all handlers is, 0.0 if none has one."""
        _BEAT.pack_into(self._map, _BEAT.size, shortest)

    def shortest_limit(self) -> float:
        """The shortest ``hard_timeout`` (s) any message here can have, 0.0 if none has one."""
        return float(_BEAT.unpack_from(self._map, _BEAT.size)[0])

    def start(self, slot: int, membership: int, message_id: str, deadline: float = 0.0, limit: float = 0.0) -> None:
        """Mark ``message_id`` as started in ``slot``, under the process' membership number ``membership``."""
        _pack_number(self._map, self._numbers[slot], 0)
        _fill(self._map, self._places[slot], deadline, limit, message_id.encode(), membership + 1)

    def end(self, slot: int) -> None:
        """What ``slot`` holds has ended: nothing limits it any more, but until its commit a death may be its doing."""
        _TIME.pack_into(self._map, self._places[slot], 0.0)

    def finish(self, slot: int) -> None:
        """Mark ``slot`` as free."""
        _pack_number(self._map, self._numbers[slot], 0)

    def started(self) -> Iterator[Started]:
        """Every started message. One that starts or ends while it is looked at is left out."""
        for at, number_at in zip(self._places, self._numbers, strict=True):
            number = _NUMBER.unpack_from(self._map, number_at)[0]
            if not number:
                continue
            seen = self._map[at : at + _SLOT]
            if seen != self._map[at : at + _SLOT]:
                continue
            deadline, limit, raw, number = _FILLED.unpack(seen)
            if number:
                yield Started(number - 1, raw.rstrip(b"\0").decode(errors="replace"), deadline, limit)

    def close(self) -> None:
        """Unmap."""
        self._map.close()
