"""Stores and files on a disk that is full, has no shared memory, or loses a file that is in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import FaultyDisk, SmallDisk
from outcomes import outcome

from taskstream.app.location import describe
from taskstream.results import ResultStoreError, open_store
from taskstream.toolkit.storage.fs import FileStorage
from taskstream.whole_file import write_whole

TESTS = Path(__file__).parents[2]

CHILD = f"""
import json, os, sys
import msgspec
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from outcomes import outcome
from taskstream.results import ResultStoreError, open_store
url, base = sys.argv[1:]
control = open(os.environ["FAULTY_DISK_CONTROL"], "r+b", buffering=0)
def set(index, value):
    control.seek(4 * index)
    control.write(value.to_bytes(4, "little", signed=True))
store = open_store(url, base=Path(base))
errors, kept = [], []
def refused(batch):
    try:
        store.write(batch)
    except ResultStoreError as error:
        errors.append(str(error))
"""

FULL_AT_ANY_BYTE = """
for number, room in enumerate([0, 100, 1000, 5000, 9000, 20_000, 40_000]):
    batch = [outcome(f"{number}-{one}", value=msgspec.Raw(b'"' + b"x" * 900 + b'"')) for one in range(60)]
    kept += batch
    set(4, room)
    refused(batch)
    set(4, -1)
    store.write(batch)
    if number % 3 == 0:  # an empty folder is filled too
        store.close()
assert all(store.read(one.id) == [one] for one in kept)
print(json.dumps(errors))
"""

NO_SHARED_MEMORY = """
set(3, 19)  # ENODEV, as a file system answers that cannot map files
refused([outcome("a")])
set(3, 0)
store.write([outcome("a")])
assert store.read("a")
print(json.dumps(errors))
"""


def run(code: str, url: str, disk: FaultyDisk, tmp_path: Path) -> list[str]:
    """What the store said while ``code`` ran on the faulty disk."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD + code, url, str(tmp_path)],
        env={**os.environ, **disk.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("url", ["file://results", "json://results"])
def test_a_disk_that_is_full_at_any_byte_costs_nothing_once_there_is_room(
    url: str, faulty_disk: FaultyDisk, tmp_path: Path
) -> None:
    errors = run(FULL_AT_ANY_BYTE, url, faulty_disk, tmp_path)
    assert len(errors) == 7
    assert all("free some space" in line and str(faulty_disk.folder) in line for line in errors), errors
    assert [path for path in faulty_disk.folder.rglob("*") if "damaged" in path.name or path.suffix == ".tmp"] == []


def test_a_file_system_without_shared_memory_is_named_with_what_helps(faulty_disk: FaultyDisk, tmp_path: Path) -> None:
    (error,) = run(NO_SHARED_MEMORY, "file://results", faulty_disk, tmp_path)
    assert "use a folder on a local disk, or json:// or redis://" in error


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("deleted", [["-wal"], ["-wal", "-shm"]])
def test_a_log_deleted_while_in_use_loses_nothing(deleted: list[str], others: int, tmp_path: Path) -> None:
    stores = [open_store("file://results", base=tmp_path) for _ in range(1 + others)]
    for number, store in enumerate(stores):
        assert store is not None
        store.write([outcome(f"before-{number}")])
    for suffix in deleted:
        (tmp_path / "results" / f"results.sqlite3{suffix}").unlink()
    for number, store in enumerate(stores):
        assert store is not None
        store.write([outcome(f"after-{number}")])
        fresh = open_store("file://results", base=tmp_path)
        assert fresh is not None and fresh.read(f"after-{number}") and fresh.read("before-0")
        fresh.close()
    for store in stores:
        assert store is not None
        store.close()
    last = open_store("file://results", base=tmp_path)
    assert last is not None
    for number in range(len(stores)):
        assert last.read(f"before-{number}") and last.read(f"after-{number}")
    last.close()
    assert not list((tmp_path / "results").glob("*damaged*"))


def test_a_read_only_file_system_is_named(small_disk: SmallDisk) -> None:
    for scheme in ("file", "json"):
        store = open_store(f"{scheme}://results", base=small_disk.folder)
        assert store is not None
        store.write([outcome("a")])
        store.close()
        small_disk.remount("ro")
        try:
            with pytest.raises(ResultStoreError, match="the file system is read-only: check the disk"):
                store.write([outcome("b")])
            store.close()
        finally:
            small_disk.remount("rw")
        store.write([outcome("b")])
        store.close()


def write_mark(folder: Path) -> None:
    store = open_store("json://.", base=folder)
    assert describe(store, make_mark=True)["mark"] is None  # type: ignore[index]
    raise OSError


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_whole(folder / "one", b"x" * 10_000),
        lambda folder: FileStorage(path=folder).sync.store("one", "x" * 10_000),
        write_mark,
    ],
    ids=["write_whole", "FileStorage", "mark of a folder"],
)
def test_a_full_disk_leaves_neither_half_a_file_nor_a_temporary_one(
    small_disk: SmallDisk, write: Callable[[Path], object]
) -> None:
    (small_disk.folder / "one").write_text("old")
    (small_disk.folder / "one.json").write_text('"old"')
    small_disk.fill()
    for _ in range(3):
        with pytest.raises(OSError):
            write(small_disk.folder)
    assert sorted(path.name for path in small_disk.folder.iterdir()) == ["filler", "one", "one.json"]
    assert (small_disk.folder / "one").read_text() == "old"
    assert (small_disk.folder / "one.json").read_text() == '"old"'
