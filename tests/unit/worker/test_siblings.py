"""Processes that are forked by a starter, as their supervisor sees them: known late, adopted, and reaped like any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers import eventually

from taskstream_worker.siblings import Forked, adopt
from taskstream_worker.spawned import is_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process is started by itself")

# Forks one, tells its id, and ends when told to; the copy lives until it is told its exit status.
STARTER = """
import os, sys
pid = os.fork()
if pid == 0:
    sys.stdout.close()
    os._exit(int(os.read({theirs}, 9) or 0))
print(pid, flush=True)
sys.stdin.read()
"""


class Family:
    """A starter, the one it forked, and what this process holds of both."""

    def __init__(self) -> None:
        theirs, self._tell = os.pipe()
        self.starter = subprocess.Popen(
            [sys.executable, "-c", STARTER.format(theirs=theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[theirs],
        )
        os.close(theirs)
        assert self.starter.stdout is not None
        self.pid = int(self.starter.stdout.readline())
        self.deaf = False
        self.forked = Forked(self.starter, lambda: self.deaf)

    def end_starter(self) -> None:
        assert self.starter.stdin is not None
        self.starter.stdin.close()
        eventually(lambda: not self.forked.starting or self.forked.poll() is not None)

    def end(self, status: int) -> None:
        os.write(self._tell, str(status).encode())

    def close(self) -> None:
        os.close(self._tell)  # ends the copy
        self.end_starter()
        if not self.forked.returncode:
            self.forked.born(self.pid)
            self.forked.wait()
        assert self.starter.stdout is not None
        self.starter.stdout.close()


@pytest.fixture
def family() -> Iterator[Family]:
    """Both alive, adopted by this process."""
    assert adopt(True)
    try:
        family = Family()
        yield family
        family.close()
    finally:
        assert adopt(False)


def test_one_is_reaped_once_its_starter_has_ended(family: Family) -> None:
    forked = family.forked
    assert (forked.poll(), forked.pid, forked.starting) == (None, family.starter.pid, True)
    forked.born(family.pid)
    forked.born(1)  # nonsense
    assert (forked.poll(), forked.pid) == (None, family.pid)
    family.end_starter()
    assert (forked.poll(), forked.starting) == (None, False)
    family.end(7)
    assert eventually(forked.poll) == 7
    forked.kill()  # there is nobody any more whom this could reach
    assert (forked.poll(), forked.returncode) == (7, 7)


def test_one_that_ended_before_its_starter_is_reaped_as_well(family: Family) -> None:
    family.forked.born(family.pid)
    family.end(3)
    eventually(lambda: not is_running(family.pid))
    assert family.forked.poll() is None
    family.end_starter()
    family.forked.wait()
    assert family.forked.returncode == 3


def test_one_that_is_killed(family: Family) -> None:
    family.forked.born(family.pid)
    family.end_starter()
    family.forked.kill()
    assert eventually(family.forked.poll) == -signal.SIGKILL


def test_one_that_never_told_its_id_has_ended_once_it_can_tell_nothing(family: Family) -> None:
    family.end_starter()
    assert family.forked.poll() is None  # what it told may be on its way
    family.deaf = True
    assert family.forked.poll() == -signal.SIGKILL


def test_before_it_is_born_its_starter_is_killed(family: Family) -> None:
    family.forked.kill()
    family.forked.wait()
    assert family.starter.returncode == -signal.SIGKILL and not family.forked.starting
