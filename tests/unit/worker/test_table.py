"""The table that survives its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from taskstream_worker import table
from taskstream_worker.table import Table


@pytest.fixture
def fd() -> Iterator[int]:
    with table.create(3) as file:
        yield file.fileno()


def test_what_started_is_seen_until_it_finished(fd: int) -> None:
    mine, supervisors = Table(fd, 3), Table(fd, 3)
    assert list(supervisors.started()) == []
    mine.start(0, 0, "a")
    mine.start(2, 70_000, "x" * 128)
    mine.start(1, 5, "")
    assert list(supervisors.started()) == [(0, "a"), (5, ""), (70_000, "x" * 128)]
    mine.finish(0)
    mine.finish(1)
    assert list(supervisors.started()) == [(70_000, "x" * 128)]
    mine.start(2, 1, "short")
    assert list(supervisors.started()) == [(1, "short")]
    mine.close()
    assert list(supervisors.started()) == [(1, "short")]
    supervisors.close()


def test_no_id_reaches_into_the_next_slot(fd: int) -> None:
    one = Table(fd, 3)
    one.start(1, 1, "b")
    one.start(0, 0, "ü" * 500)
    one.start(2, 2, "c" * 500)
    assert [number for number, _ in one.started()] == [0, 1, 2]
    assert list(one.started())[1] == (1, "b")
    one.close()


def test_heartbeat(fd: int) -> None:
    one, other = Table(fd, 3), Table(fd, 3)
    assert other.last_beat() == 0.0
    one.start(0, 0, "a")
    one.beat(12345.678)
    assert other.last_beat() == 12345.678
    assert list(other.started()) == [(0, "a")]
    one.close()
    other.close()


def test_it_survives_a_killed_process(fd: int) -> None:
    code = (
        "import os, signal, sys; from taskstream_worker.table import Table; one = Table(int(sys.argv[1]), 3); "
        "one.beat(7.0); one.start(1, 4, 'm1'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fd)], pass_fds=[fd], check=False, timeout=30)
    assert done.returncode == -9
    one = Table(fd, 3)
    assert (one.last_beat(), list(one.started())) == (7.0, [(4, "m1")])
    one.close()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no anonymous memory files")
def test_no_disk_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    with table.create(3) as file:
        one = Table(file.fileno(), 3)
        one.start(2, 0, "a")
        assert list(one.started()) == [(0, "a")]
        one.close()
