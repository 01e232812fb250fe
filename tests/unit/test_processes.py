"""Children end with their parent, and a stop is bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import alive, eventually

from taskstream import launcher, processes

BOUND = 10.0
SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture(params=["signal", "watch"])
def parent_death(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which a child learns that its parent died; the one for other systems works on Linux too."""
    way: str = request.param
    if way == "signal" and sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    monkeypatch.setattr(processes, "PARENT_DEATH", way)
    return way


@pytest.mark.usefixtures("parent_death")
def test_child_is_the_program_itself_with_its_own_group_and_no_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "import os, sys; print(os.getpid(), os.getpgrp(), os.environ['X'], sys.stdin.read() == '', os.getcwd())"
    with out.open("wb") as output:
        child = processes.spawn(
            [sys.executable, "-c", program], own_group=True, env={"X": "1"}, cwd=tmp_path, output=output
        )
        assert child.wait(BOUND) == 0
    assert out.read_text().split() == [str(child.pid), str(child.pid), "1", "True", str(tmp_path)]


@pytest.mark.usefixtures("parent_death")
def test_child_stays_in_the_group_unless_it_gets_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as output:
        program = [sys.executable, "-c", "import os; print(os.getpgrp())"]
        assert processes.spawn(program, own_group=False, output=output).wait(BOUND) == 0
    assert int(out.read_text()) == os.getpgrp()


def test_child_ends_when_its_parent_is_killed(parent_death: str) -> None:
    # Given a parent with a child that would sleep for a minute
    program = (
        "import sys, time\nfrom taskstream import processes\n"
        f"processes.PARENT_DEATH = {parent_death!r}\n"
        f"child = processes.spawn({SLEEP!r}, own_group=True)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        lines = {parent.stdout.readline().strip() for _ in range(2)}  # in either order
        child_pid = int((lines - {"up"}).pop())
        # When the parent is killed with SIGKILL
        parent.kill()
        parent.wait(BOUND)
        # Then the child ends as well
        eventually(lambda: not alive(child_pid))


@pytest.mark.usefixtures("parent_death")
def test_child_has_what_it_is_given_and_nothing_of_the_launcher(tmp_path: Path) -> None:
    # Given one descriptor for the child
    out, given = tmp_path / "out", (tmp_path / "given").open("wb")
    with given, out.open("wb") as output:
        program = "import os; print(*(number for number in os.listdir('/dev/fd') if int(number) > 2))"
        number = given.fileno()
        child = processes.spawn([sys.executable, "-c", program], own_group=True, output=output, pass_fds=[number])
        assert child.wait(BOUND) == 0
    # Then it has that one, beside the one that lists them
    found = out.read_text().split()
    assert str(number) in found and len(found) == 2


def test_watcher_ends_with_the_child_and_keeps_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a child with a watcher
    monkeypatch.setattr(processes, "PARENT_DEATH", "watch")
    reader, writer = os.pipe()
    with open(reader, "rb") as output:
        child = processes.spawn(SLEEP, own_group=True, output=writer)
        os.close(writer)
        assert output.readline() == b"up\n"
        (watcher,) = psutil.Process(child.pid).children()
        eventually(lambda: os.getpgid(watcher.pid) != child.pid)
        # When the child ends
        child.kill()
        child.wait(BOUND)
        # Then nothing is left of its group, and its output and the watcher have ended
        assert not processes.group_exists(child.pid)
        assert output.read() == b""
        eventually(lambda: not watcher.is_running())


def test_child_whose_parent_is_not_the_one_that_spawned_it_does_not_start(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert launch("signal", "1", "15", "touch", str(marker)) == 0
    assert not marker.exists()


def test_program_that_does_not_exist_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch("signal", str(os.getpid()), "15", "/no/such/program") == launcher.CANNOT_EXECUTE
    assert capfd.readouterr().err == "taskstream: /no/such/program: No such file or directory\n"


def launch(*words: str) -> int:
    """Run the launcher; return its exit status."""
    return subprocess.run([sys.executable, "-I", "-S", processes.LAUNCHER, *words], timeout=BOUND).returncode


def test_stop_is_polite_first() -> None:
    child = processes.spawn([sys.executable, "-c", "import signal; signal.sigwait({signal.SIGTERM})"], own_group=True)
    assert processes.stop(child, BOUND) in (0, -signal.SIGTERM)


def test_stop_kills_the_whole_group_of_a_child_that_does_not_listen(tmp_path: Path) -> None:
    # Given a child that ignores SIGTERM and has a child of its own
    out = tmp_path / "out"
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(grandchild.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with out.open("wb") as output:
        child = processes.spawn([sys.executable, "-c", program], own_group=True, output=output)
    eventually(lambda: out.read_text().strip())
    grandchild = int(out.read_text())
    # When it is stopped
    status = processes.stop(child, 0.2)
    # Then both are gone
    assert status == -signal.SIGKILL
    eventually(lambda: not alive(grandchild))
