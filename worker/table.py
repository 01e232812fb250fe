"""The table a worker process shares with its supervisor: its last heartbeat and which messages have started.

It is a memory map of an anonymous file, so that it survives the process: the supervisor reads from it what
a dead process was running. No full disk can touch it. Each side only ever writes or reads; a torn read costs
one wrong count at worst.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import IO

_BEAT = struct.Struct("<d")
_ID_SIZE = 128
_SLOT = struct.Struct(f"<IB{_ID_SIZE}s")  # membership number + 1, length of the id, the id
_NUMBER = struct.Struct("<I")


def create(slots: int) -> IO[bytes]:
    """An anonymous file for ``slots`` messages at once; its descriptor is inherited by the worker process."""
    size = _BEAT.size + slots * _SLOT.size
    if hasattr(os, "memfd_create"):
        # It lives as long as its child.
        file: IO[bytes] = open(os.memfd_create("taskstream"), "r+b", buffering=0)  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile(prefix="taskstream-", buffering=0)  # noqa: SIM115
    # Written, not truncated to its size: a page that a full disk has no place for is an error here, and SIGBUS later.
    if file.write(bytes(size)) != size:
        file.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return file


class Table:
    """A mapped table."""

    def __init__(self, fd: int, slots: int) -> None:
        self._map = mmap.mmap(fd, _BEAT.size + slots * _SLOT.size)
        self._slots = slots

    def beat(self, now: float) -> None:
        """Say that the process is alive at boottime ``now`` (s)."""
        _BEAT.pack_into(self._map, 0, now)

    def last_beat(self) -> float:
        """Boottime (s) of the last heartbeat, 0.0 before the first."""
        return float(_BEAT.unpack_from(self._map, 0)[0])

    def start(self, slot: int, membership: int, message_id: str) -> None:
        """Mark ``message_id`` as started in ``slot``, under the process' membership number ``membership``."""
        raw = message_id.encode()
        _SLOT.pack_into(self._map, _BEAT.size + slot * _SLOT.size, membership + 1, min(len(raw), _ID_SIZE), raw)

    def finish(self, slot: int) -> None:
        """Mark ``slot`` as free."""
        _NUMBER.pack_into(self._map, _BEAT.size + slot * _SLOT.size, 0)

    def started(self) -> Iterator[tuple[int, str]]:
        """(membership number, message id) of every started message."""
        for slot in range(self._slots):
            number, length, raw = _SLOT.unpack_from(self._map, _BEAT.size + slot * _SLOT.size)
            if number:
                yield number - 1, raw[:length].decode(errors="replace")

    def close(self) -> None:
        """Unmap."""
        self._map.close()
