"""What a power cut leaves of the stores on disk, for each fsync policy; every write recorded, then replayed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from disks import FaultyDisk, PowerCut, Record, read_log

from taskstream.results import open_store

TESTS = Path(__file__).parents[2]
BATCHES = 12
SIZE = 4

WRITER = f"""
import msgspec, os, sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from outcomes import outcome
from taskstream.results import open_store, sqlite
sqlite.CHECKPOINT_BYTES = 50_000
url, base, policy = sys.argv[1:]
for life in range(2):
    store = open_store(url, base=Path(base), fsync=policy)
    value = msgspec.Raw(b'"' + b"x" * 500 + b'"')
    for batch in range({BATCHES} // 2):
        number = life * {BATCHES} // 2 + batch
        store.write([outcome(f"{{number:03d}}-{{one}}", value=value) for one in range({SIZE})])
        os.write(int(os.environ["ACKS"]), b"%d\\n" % number)
    store.close()  # then the log is folded into the database and removed
"""


def recorded(url: str, policy: str, disk: FaultyDisk, tmp_path: Path) -> list[Record]:
    """Everything that a process did to the disk while it wrote, with an entry ``acks`` after each batch kept."""
    disk.folder.mkdir()
    acks = os.open(disk.folder / "acks", os.O_WRONLY | os.O_CREAT)
    try:
        subprocess.run(
            [sys.executable, "-c", WRITER, url, str(tmp_path), policy],
            env={**os.environ, **disk.env, "ACKS": str(acks)},
            pass_fds=[acks],
            check=True,
            timeout=60,
        )
    finally:
        os.close(acks)
    return read_log(tmp_path / "disk-log")


def cuts(records: list[Record], tmp_path: Path, source: Path) -> list[tuple[int, Path]]:
    """(batches acknowledged, folder with what is left) for cuts after each acknowledgement, and at random."""
    chance = random.Random(7)
    wanted = set(chance.sample(range(len(records)), 8))
    disk, acknowledged, found = PowerCut(), 0, []
    for index, record in enumerate(records):
        is_ack = record.path.endswith("/acks")
        if is_ack:
            acknowledged += 1
        else:
            disk.see(record)
        if index in wanted or is_ack:
            target = tmp_path / f"cut-{index}"
            target.mkdir()
            disk.restore(source, target / "results", chance if index % 2 else None)
            found.append((acknowledged, target))
    assert acknowledged == BATCHES
    return found


def left(url: str, folder: Path) -> list[int]:
    """Numbers of the batches that are there; each one is there whole or not at all."""
    store = open_store(url, base=folder)
    assert store is not None
    found = []
    for number in range(BATCHES):
        there = [bool(store.read(f"{number:03d}-{one}")) for one in range(SIZE)]
        if url.startswith("file"):
            assert len(set(there)) == 1, f"batch {number} is torn"
        if all(there):
            found.append(number)
    store.close()
    assert not list(folder.rglob("*damaged*"))
    return found


@pytest.mark.parametrize("url", ["file://results", "json://results"])
def test_commit_every_acknowledged_outcome_survives(url: str, faulty_disk: FaultyDisk, tmp_path: Path) -> None:
    records = recorded(url, "commit", faulty_disk, tmp_path)
    for acknowledged, folder in cuts(records, tmp_path, faulty_disk.folder):
        assert left(url, folder)[:acknowledged] == list(range(acknowledged))


def test_checkpoint_only_the_last_moments_are_missing(faulty_disk: FaultyDisk, tmp_path: Path) -> None:
    records = recorded("file://results", "checkpoint", faulty_disk, tmp_path)
    missing = []
    for acknowledged, folder in cuts(records, tmp_path, faulty_disk.folder):
        there = left("file://results", folder)
        # What is there has no gaps, and lacks no more than was written since the last checkpoint
        assert there == list(range(len(there)))
        missing.append(acknowledged - len(there))
    assert 0 < max(missing) < BATCHES / 2
    # It costs few syncs: that is what it is for
    assert sum(record.what == "s" and record.path.endswith("-wal") for record in records) < BATCHES
