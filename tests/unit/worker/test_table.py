"""The table that survives its process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from taskstream_worker import table
from taskstream_worker.table import Started, Table


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
    assert list(supervisors.started()) == [Started(0, "a"), Started(5, ""), Started(70_000, "x" * 128)]
    mine.finish(0)
    mine.finish(1)
    assert list(supervisors.started()) == [Started(70_000, "x" * 128)]
    mine.start(2, 1, "short")
    assert list(supervisors.started()) == [Started(1, "short")]
    mine.close()
    assert list(supervisors.started()) == [Started(1, "short")]
    supervisors.close()


def test_no_id_reaches_into_the_next_slot(fd: int) -> None:
    one = Table(fd, 3)
    one.start(1, 1, "b")
    one.start(0, 0, "ü" * 500)
    one.start(2, 2, "c" * 500)
    assert [found.membership for found in one.started()] == [0, 1, 2]
    assert list(one.started())[1] == Started(1, "b")
    one.close()


def test_heartbeat(fd: int) -> None:
    one, other = Table(fd, 3), Table(fd, 3)
    assert other.last_beat() == 0.0
    one.start(0, 0, "a")
    one.beat(12345.678)
    assert other.last_beat() == 12345.678
    assert list(other.started()) == [Started(0, "a")]
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
    assert (one.last_beat(), list(one.started())) == (7.0, [Started(4, "m1")])
    one.close()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no anonymous memory files")
def test_no_disk_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    with table.create(3) as file:
        one = Table(file.fileno(), 3)
        one.start(2, 0, "a")
        assert list(one.started()) == [Started(0, "a")]
        one.close()


def test_until_when_a_message_may_run(fd: int) -> None:
    one, other = Table(fd, 3), Table(fd, 3)
    assert other.shortest_limit() == 0.0
    one.limit(1.5)
    one.beat(7.0)
    one.start(0, 3, "endless")
    one.start(2, 4, "limited", 1001.5, 1.5)
    assert (other.shortest_limit(), other.last_beat()) == (1.5, 7.0)
    free, limited = other.started()
    assert limited == Started(4, "limited", 1001.5, 1.5)
    assert [limited.overdue(now) for now in (1001.4, 1001.5)] == [False, True]
    assert not free.overdue(10**9)
    # What has ended has no limit, but is there until its commit
    one.end(2)
    assert list(other.started())[1] == Started(4, "limited", 0.0, 1.5)
    # The next message of the slot has no limit again
    one.start(2, 4, "endless too")
    assert list(other.started())[1] == Started(4, "endless too")
    one.close()
    other.close()


def test_half_of_one_message_and_half_of_the_next_is_none(fd: int) -> None:
    # Given a slot that is given to the next message while it is looked at
    one, other = Table(fd, 3), Table(fd, 3)
    one.start(0, 1, "a", 5.0, 5.0)

    class Changing(mmap.mmap):
        def __getitem__(self, where: Any) -> Any:
            found = super().__getitem__(where)
            one.start(0, 1, "b")
            return found

    other.close()
    other._map = Changing(fd, os.fstat(fd).st_size)
    # Then the look says nothing, and the next one says it all
    assert list(other.started()) == []
    assert list(other.started()) == [Started(1, "b")]
    one.close()
    other.close()
