"""What befalls a database: damage, removal, full disks, other processes, later releases."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outcomes import NOW_MS, outcome

from taskstream.errors import ConfigError, ResultUnavailable
from taskstream.message import new_id
from taskstream.results import ResultStoreError, open_store, sqlite, sqlite_rows
from taskstream.results.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = reopened(tmp_path)
    yield opened
    opened.close()


def reopened(tmp_path: Path, fsync: str = "commit") -> SqliteStore:
    opened = open_store("file://results", base=tmp_path, fsync=fsync)
    assert isinstance(opened, SqliteStore)
    return opened


def filled(tmp_path: Path, rows: int) -> list[str]:
    """A closed database with ``rows`` outcomes, all of them in the main file."""
    store = reopened(tmp_path)
    batch = [outcome(new_id()) for _ in range(rows)]
    store.write(batch)
    store.close()
    return [one.id for one in batch]


def damaged_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "results").glob("results.damaged-*.sqlite3"))


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def scribbled(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()


@pytest.mark.parametrize("damage", [garbage, truncated, scribbled])
def test_a_damaged_database_is_moved_aside_and_nothing_new_is_lost(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 2000)
    damage(tmp_path / "results" / "results.sqlite3")  # type: ignore[operator]
    store = reopened(tmp_path)
    fresh = outcome(new_id())
    store.write([fresh])
    assert store.read(fresh.id) == [fresh]
    store.close()
    assert len(damaged_files(tmp_path)) == 1
    assert "is damaged" in caplog.text
    assert damaged_files(tmp_path)[0].name in caplog.text
    again = reopened(tmp_path)
    assert again.read(fresh.id) == [fresh]
    again.close()
    assert len(damaged_files(tmp_path)) == 1


def test_a_file_cut_short_anywhere_is_found_at_opening(tmp_path: Path) -> None:
    """Given a database of many pages, When a power cut leaves its first n bytes, Then new outcomes are kept.

    Only a file that lost nothing may go on as it is: what is left of any other would answer wrongly later.
    """
    ids = filled(tmp_path, 1000)
    whole = (tmp_path / "results" / "results.sqlite3").read_bytes()
    pages = len(whole) // 4096
    middle = pages // 2 * 4096
    for cut in (
        0,
        1,
        100,
        4095,
        4096,
        4097,
        3 * 4096,
        middle,
        middle + 9,
        (pages - 1) * 4096,
        len(whole) - 1,
        len(whole),
    ):
        folder = tmp_path / f"cut-{cut}"
        (folder / "results").mkdir(parents=True)
        (folder / "results" / "results.sqlite3").write_bytes(whole[:cut])
        store = reopened(folder)
        fresh = outcome(new_id())
        store.write([fresh])
        assert store.read(fresh.id) == [fresh]
        kept = sum(bool(store.read(message_id)) for message_id in ids[::100])
        store.close()
        assert kept == (10 if cut == len(whole) else 0)
        # To SQLite, a file of less than a header is an empty one; there is nothing in it to move aside
        assert len(damaged_files(folder)) == (0 if cut in (0, 1, len(whole)) else 1), cut


def test_a_log_cut_short_keeps_what_was_before_the_cut(tmp_path: Path) -> None:
    """Given outcomes that are only in the log, When it is cut short, Then whole batches up to the cut are there."""
    store = reopened(tmp_path)
    batches = [[outcome(new_id()) for _ in range(20)] for _ in range(10)]
    for batch in batches:
        store.write(batch)
    source = tmp_path / "results"
    log = (source / "results.sqlite3-wal").read_bytes()
    main = (source / "results.sqlite3").read_bytes()
    store.close()
    counts = []
    for cut in range(0, len(log) + 1, len(log) // 7):
        folder = tmp_path / f"cut-{cut}"
        (folder / "results").mkdir(parents=True)
        (folder / "results" / "results.sqlite3").write_bytes(main)
        (folder / "results" / "results.sqlite3-wal").write_bytes(log[:cut])
        left = reopened(folder)
        left.write([outcome("fresh")])
        there = [{bool(left.read(one.id)) for one in batch} for batch in batches]
        assert left.read("fresh")
        left.close()
        assert all(len(found) == 1 for found in there), "a batch is torn"
        counts.append(sum(found == {True} for found in there))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] >= 8


def test_damage_while_the_store_is_open_loses_no_later_outcome(store: SqliteStore, tmp_path: Path) -> None:
    store.write([outcome(new_id()) for _ in range(2000)])
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    scribbled(tmp_path / "results" / "results.sqlite3")
    store.close()  # forget cached pages, as memory pressure or a new connection would
    fresh = [outcome(new_id()) for _ in range(10)]
    store.write(fresh)
    assert all(store.read(one.id) == [one] for one in fresh)
    assert len(damaged_files(tmp_path)) == 1


def test_damage_that_only_a_write_meets_is_moved_aside_too(store: SqliteStore, tmp_path: Path) -> None:
    """Given a table with a page that no check at opening reads, When a write meets it, Then the batch is kept."""
    old = [outcome(f"{number:08d}") for number in range(20_000)]
    store.write(old)
    store.close()
    path = tmp_path / "results" / "results.sqlite3"
    with path.open("r+b") as file:
        for page in range(50, path.stat().st_size // 4096 - 50):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    fresh = [outcome(f"{number:08d}x") for number in range(0, 20_000, 500)]
    store.write(fresh)
    assert all(store.read(one.id) == [one] for one in fresh)
    assert len(damaged_files(tmp_path)) == 1


def test_a_reader_of_a_damaged_database_says_so_and_moves_nothing(tmp_path: Path) -> None:
    ids = filled(tmp_path, 2000)
    store = reopened(tmp_path)
    store.close()
    garbage(tmp_path / "results" / "results.sqlite3")
    with pytest.raises(ResultUnavailable, match="damaged"):
        store.read(ids[0])
    assert damaged_files(tmp_path) == []


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_deleted_underneath_is_made_again(store: SqliteStore, tmp_path: Path, what: str) -> None:
    first, second = outcome(new_id()), outcome(new_id())
    store.write([first])
    if what == "folder":
        shutil.rmtree(tmp_path / "results")
    else:
        for path in (tmp_path / "results").glob("results.sqlite3*"):
            path.unlink()
    assert store.read(first.id) == []
    store.write([second])
    other = reopened(tmp_path)
    assert other.read(second.id) == [second]
    other.close()


def test_a_later_release_s_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    (message_id,) = filled(tmp_path, 1)
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as other:
        other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(ConfigError, match="later release"):
        reopened(tmp_path)
    with pytest.raises(ResultStoreError, match="later release"):
        store.write([outcome(new_id())])
    with pytest.raises(ResultUnavailable, match="later release"):
        store.read(message_id)
    assert damaged_files(tmp_path) == []


def test_a_database_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "results.sqlite3"
    path.touch()
    foreign(path)
    store = reopened(tmp_path)
    fresh = outcome(new_id())
    store.write([fresh])  # its tables stand beside ours
    assert store.read(fresh.id) == [fresh]
    store.close()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM other").fetchone() == (0,)
    other.close()


FULL_DISK = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from outcomes import outcome
from taskstream.message import new_id
from taskstream.results import ResultStoreError, open_store
store = open_store("file://results", base=Path(sys.argv[1]))
first = outcome(new_id()); store.write([first])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
errors = []
lost = [outcome(new_id()) for _ in range(5000)]
for _ in range(3):
    try:
        store.write(lost)
    except ResultStoreError as error:
        errors.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.write(lost)
kept = sum(bool(store.read(one.id)) for one in [first, *lost])
store.close()
print(json.dumps({"errors": errors, "kept": kept}))
"""


def test_a_store_that_cannot_grow_says_so_and_recovers_by_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path), str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kept"] == 5001
    assert len(found["errors"]) == 3
    assert all("result store" in line and "\n" not in line for line in found["errors"])
    assert damaged_files(tmp_path) == []


@pytest.mark.parametrize("code", ["SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_BUSY"])
def test_every_refusal_names_the_store_and_a_remedy(
    store: SqliteStore, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        error = sqlite3.OperationalError("refused")
        error.sqlite_errorcode = getattr(sqlite3, code)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("taskstream.results.sqlite_rows.write", refuse)
        with pytest.raises(ResultStoreError, match=r"results\.sqlite3") as raised:
            store.write([outcome(new_id())])
    assert raised.value.errno
    fresh = outcome(new_id())
    store.write([fresh])
    assert store.read(fresh.id) == [fresh]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    store = reopened(tmp_path)
    with pytest.raises(ResultStoreError, match="result store"):
        store.write([outcome(new_id())])
    (tmp_path / "results").unlink()
    store.write([outcome(new_id())])
    store.close()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from outcomes import outcome
from taskstream.results import open_store
store = open_store("file://results", base=Path(sys.argv[1]), fsync="checkpoint")
for batch in range(40):
    store.write([outcome(f"{sys.argv[3]}-{batch:03d}-{number}") for number in range(25)])
store.close()
"""


def test_processes_that_start_at_once_share_one_database(tmp_path: Path) -> None:
    helpers = str(Path(__file__).parents[2])
    writers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, str(tmp_path), helpers, str(number)])
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (4000,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert damaged_files(tmp_path) == []


def test_a_killed_writer_loses_nothing_that_write_returned_for(tmp_path: Path) -> None:
    program = WRITER.replace("range(40)", "range(10**9)").replace(
        "for number in range(25)])", "for number in range(25)]); print(batch, flush=True)"
    )
    helpers = str(Path(__file__).parents[2])
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), helpers, "w"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    batches = [int(writer.stdout.readline()) for _ in range(50)]
    writer.kill()
    batches += [int(line) for line in writer.stdout.read().split()]
    writer.wait(10)
    writer.stdout.close()
    store = reopened(tmp_path)
    assert all(store.read(f"w-{batch:03d}-{number}") for batch in batches for number in range(25))
    store.close()


def test_the_log_stays_bounded_while_two_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 200_000)
    first, second = reopened(tmp_path, "checkpoint"), reopened(tmp_path, "checkpoint")
    for _ in range(100):
        first.write([outcome(new_id()) for _ in range(50)])
        second.write([outcome(new_id()) for _ in range(50)])
    assert (tmp_path / "results" / "results.sqlite3-wal").stat().st_size < 2_000_000
    first.close()
    second.close()


class _Busy:
    """A connection whose log others keep writing to."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def execute(self, statement: str) -> _Busy:
        self.statements.append(statement)
        return self

    def fetchone(self) -> tuple[int, int, int]:
        return (0, 10, 5)


def test_a_log_that_others_write_to_meanwhile_is_restarted_all_the_same() -> None:
    busy = _Busy()
    sqlite_rows.checkpoint(busy)  # type: ignore[arg-type]
    assert [statement for statement in busy.statements if "checkpoint" in statement] == [
        "PRAGMA wal_checkpoint(PASSIVE)",
        "PRAGMA wal_checkpoint(RESTART)",
    ]


def test_a_reader_that_never_ends_stops_no_writer(store: SqliteStore, tmp_path: Path) -> None:
    store.write([outcome(new_id())])
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM outcomes").fetchone()
        fresh = outcome(new_id())
        store.write([fresh])
        session = store._take()
        assert session is not None
        sqlite_rows.checkpoint(session.connection)
        store._release(session)
        store.write([outcome(new_id())])
        assert store.read(fresh.id) == [fresh]
    other.close()


def test_a_batch_committed_to_a_file_that_was_just_deleted_is_written_again(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([outcome(new_id())])
    original, calls = sqlite_rows.write, []

    def write(*arguments: object) -> None:
        if not calls:
            shutil.rmtree(tmp_path / "results")
        calls.append(1)
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_rows, "write", write)
    fresh = outcome(new_id())
    store.write([fresh])
    assert len(calls) == 2
    assert store.read(fresh.id) == [fresh]


def test_reads_do_not_wait_for_a_writer(store: SqliteStore, tmp_path: Path) -> None:
    kept = outcome(new_id())
    store.write([kept])
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM outcomes")
        assert store.read(kept.id) == [kept]
        other.execute("ROLLBACK")
    other.close()


def test_commit_means_synchronous_full(tmp_path: Path) -> None:
    for fsync, level in (("commit", 2), ("checkpoint", 1)):
        store = reopened(tmp_path, fsync)
        store.write([outcome(new_id())])
        session = store._take()
        assert session is not None
        assert session.connection.execute("PRAGMA synchronous").fetchone() == (level,)
        session.close()
        store.close()


def test_a_sweep_lets_writers_in_between_its_portions(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given many old outcomes, When they are swept, Then there are gaps in which a writer that polls gets the lock."""
    store.write([outcome(new_id(), finished_ms=1) for _ in range(1200)])
    writer, gaps = reopened(tmp_path), []

    def gap(seconds: float) -> None:
        gaps.append(seconds)
        writer.write([outcome(new_id())])

    monkeypatch.setattr(sqlite.time, "sleep", gap)
    assert store.sweep(NOW_MS) == 1200
    writer.close()
    assert gaps == [2 * sqlite_rows.BUSY_POLL_S] * 2


def test_the_sweep_goes_by_its_index(store: SqliteStore, tmp_path: Path) -> None:
    store.write([outcome(new_id())])
    store.sweep(NOW_MS)
    with sqlite3.connect(tmp_path / "results" / "results.sqlite3") as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT rowid FROM outcomes WHERE finished_ms < 5 ORDER BY finished_ms LIMIT 5"
        ).fetchall()
    connection.close()
    assert "outcomes_finished" in str(plan)
    assert "TEMP B-TREE" not in str(plan)
