"""Disks that fail when a test says so: a small one that is really full, and one that errs on demand."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import need

SHIM = Path(__file__).parent / "faulty_disk.c"
_NUMBERS = struct.Struct("=6i")
_FIELDS = ("fsync_ms", "fsync_errno", "write_errno", "mmap_errno", "room", "fsyncs")
_HEAD = struct.Struct("=cQQQ")


class SmallDisk:
    """A file system of its own, in memory, of 4 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Take all of its space."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65536, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)

    def remount(self, option: str) -> None:
        """``ro`` or ``rw``. Raises OSError while something is open for writing there."""
        done = subprocess.run(["mount", "-o", f"remount,{option}", self.folder], check=False, timeout=10)
        if done.returncode:
            raise OSError(f"{self.folder} cannot be remounted {option}")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount one at ``folder``. Where nothing may be mounted the test is skipped: a disk that errs on demand is left."""
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command on this machine")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
        timeout=10,
    )
    if made.returncode:
        pytest.skip(f"file systems cannot be mounted here: {made.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: a process that a failed test left may still be there.
        subprocess.run(["umount", "-l", folder], check=True, timeout=10)


def compiled_shim(folder: Path) -> Path:
    """The shared library of SHIM, compiled into ``folder``."""
    if sys.platform != "linux":
        pytest.skip("what stands between a process and its disk is written for Linux")
    compiler = need(shutil.which("cc"), "cc (a C compiler)")
    library = folder / "faulty_disk.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True, timeout=60)
    return library


class FaultyDisk:
    """What processes started with ``env`` see of ``folder``. Numbers are set and read while they run."""

    def __init__(self, folder: Path, library: Path, control: Path, log: Path | None = None) -> None:
        self.folder = folder
        self._control = control
        control.write_bytes(_NUMBERS.pack(0, 0, 0, 0, -1, 0))
        self.env = {
            "LD_PRELOAD": str(library),
            "FAULTY_DISK_CONTROL": str(control),
            "FAULTY_DISK_FOLDER": str(folder),
        }
        if log is not None:
            self.env["FAULTY_DISK_LOG"] = str(log)

    def set(self, **values: int) -> None:
        """Set some of ``fsync_ms``, ``fsync_errno``, ``write_errno``, ``mmap_errno``, ``room`` (bytes, -1: no end)."""
        with self._control.open("r+b", buffering=0) as file:
            for name, value in values.items():
                file.seek(4 * _FIELDS.index(name))
                file.write(value.to_bytes(4, "little", signed=True))

    @property
    def fsyncs(self) -> int:
        """How many were made so far."""
        found: int = _NUMBERS.unpack(self._control.read_bytes())[_FIELDS.index("fsyncs")]
        return found


@dataclass
class Record:
    """One thing done: c file made, m folder made, w written, t truncated, s synced, u unlinked, r renamed."""

    what: str
    path: str
    offset: int
    data: bytes


def read_log(log: Path) -> list[Record]:
    """What a faulty disk has recorded, in order."""
    raw, found, at = log.read_bytes(), [], 0
    while at < len(raw):
        what, path_size, offset, data_size = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        path, data = raw[at : at + path_size], raw[at + path_size : at + path_size + data_size]
        at += path_size + data_size
        found.append(Record(what.decode(), path.decode(), offset, data))
    return found


class PowerCut:
    """What may be on a disk after a power cut: what was synced, be it content or the name of a file, and some more."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._synced: dict[str, bytes] = {}
        self._since: dict[str, list[Record]] = {}
        self._folders: set[str] = set()
        self._named: set[str] = set()

    def see(self, record: Record) -> None:
        """Follow one record."""
        path = record.path
        if record.what in "cm":
            if record.what == "m":
                self._folders.add(path)
            self._files.setdefault(path, bytearray())
        elif record.what in "wt":
            _apply(self._files.setdefault(path, bytearray()), record)
            self._since.setdefault(path, []).append(record)
        elif record.what == "u":
            self._files.pop(path, None)
        elif record.what == "r":
            for kept in (self._files, self._synced, self._since):
                if path in kept:
                    kept[record.data.decode()] = kept.pop(path)  # type: ignore[attr-defined, operator]
        elif path in self._files and path not in self._folders:
            self._synced[path] = bytes(self._files[path])
            self._since.pop(path, None)
        else:  # a folder
            self._named = {name for name in self._named if os.path.dirname(name) != path}
            self._named |= {name for name in self._files if os.path.dirname(name) == path}

    def restore(self, source: Path, target: Path, chance: random.Random | None = None) -> None:
        """Put what was below ``source`` into ``target``; of what was not synced nothing, or what ``chance`` picks."""
        for name in self._named - self._folders:
            if any(str(above) in self._folders - self._named for above in Path(name).parents):
                continue
            content = bytearray(self._synced.get(name, b""))
            for record in self._since.get(name, ()):
                if chance is not None and chance.random() < 0.5:
                    _apply(content, record)
            path = target / Path(name).relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _apply(content: bytearray, record: Record) -> None:
    end = record.offset + len(record.data)
    content.extend(bytes(max(0, end - len(content))))
    if record.what == "t":
        del content[end:]
    else:
        content[record.offset : end] = record.data
