"""One file per outcome: its form, and what befalls files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from outcomes import NOW_MS, outcome

from taskstream.errors import ResultUnavailable
from taskstream.message import new_id
from taskstream.results import ResultStoreError, open_store
from taskstream.results.json_files import JsonFileStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JsonFileStore]:
    opened = open_store("json://results", base=tmp_path)
    assert isinstance(opened, JsonFileStore)
    yield opened
    opened.close()


def test_people_and_programs_can_read_the_file(store: JsonFileStore, tmp_path: Path) -> None:
    kept = outcome("order-7", group="images")
    store.write([kept])
    path = tmp_path / "results" / "images" / "order-7.json"
    text = path.read_text()
    assert json.loads(text)["value"] == {"size": 64}
    assert text.startswith('{\n  "id": "order-7",\n')
    assert path.stat().st_mtime_ns == NOW_MS * 1_000_000


def test_no_temporary_file_is_left_by_a_write(store: JsonFileStore, tmp_path: Path) -> None:
    store.write([outcome("a", delivery=2), outcome("a", delivery=1), outcome("b")])
    assert sorted(path.name for path in (tmp_path / "results" / "g").iterdir()) == ["a.json", "b.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    store: JsonFileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = outcome("a")
    store.write([kept])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResultStoreError, match="No space left on device") as raised:
            store.write([outcome("a", worker="later"), outcome("b")])
    assert raised.value.errno == errno.ENOSPC
    assert store.read("a") == [kept]
    assert [path.name for path in (tmp_path / "results" / "g").iterdir()] == ["a.json"]


def test_a_deleted_folder_is_made_again(store: JsonFileStore, tmp_path: Path) -> None:
    store.write([outcome("a")])
    shutil.rmtree(tmp_path / "results")
    store.write([outcome("b")])
    assert store.read("a") == []
    assert store.read("b") == [outcome("b")]


def test_a_damaged_file_is_reported_to_readers_and_replaced_by_writers(
    store: JsonFileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write([outcome("a")])
    (tmp_path / "results" / "g" / "a.json").write_bytes(b'{"id": "a", \xff')
    with pytest.raises(ResultUnavailable, match="a in"):
        store.read("a")
    store.write([outcome("a")])
    assert store.read("a") == [outcome("a")]
    assert "damaged" in caplog.text


def test_the_sweep_removes_what_dead_processes_left_and_nothing_younger(store: JsonFileStore, tmp_path: Path) -> None:
    store.write([outcome("a", finished_ms=int(time.time() * 1000))])
    orphan = tmp_path / "results" / "g" / ".left.tmp"
    orphan.write_text("{")
    store.sweep(int(time.time() * 1000))
    assert orphan.exists()
    store.sweep(int((time.time() + 2 * 3600) * 1000))
    assert not orphan.exists()
    assert len(store.read("a")) == 1


def test_a_group_folder_that_is_a_file_is_one_clear_error(store: JsonFileStore, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "g").write_text("in the way")
    with pytest.raises(ResultStoreError, match="a file is where a folder has to be"):
        store.write([outcome("a")])
    assert store.read("a", "g") == []


RACER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from outcomes import outcome
from taskstream.results import open_store
store = open_store("json://results", base=Path(sys.argv[1]), fsync="checkpoint")
for delivery in range(int(sys.argv[3]), 400, 3):
    store.write([outcome("contested", delivery=delivery + 1)])
    assert store.read("contested")[0].delivery > delivery
"""


def test_processes_that_race_never_take_a_record_back(tmp_path: Path) -> None:
    helpers = str(Path(__file__).parents[2])
    racers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", RACER, str(tmp_path), helpers, str(number)])
        for number in range(3)
    ]
    assert [racer.wait(60) for racer in racers] == [0] * 3
    store = open_store("json://results", base=tmp_path)
    assert store is not None
    assert store.read("contested")[0].delivery == 400


def test_every_file_is_on_the_disk_before_its_name_is(
    store: JsonFileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([outcome(new_id())])
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replace"), replace(*names)))
    store.write([outcome(new_id())])
    assert steps == ["fsync", "replace", "fsync"]
    steps.clear()
    quick = open_store("json://results", base=tmp_path, fsync="checkpoint")
    assert quick is not None
    quick.write([outcome(new_id())])
    assert steps == ["replace"]
