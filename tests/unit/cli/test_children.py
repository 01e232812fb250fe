"""Children of dev and run: started again with backoff, stopped within bounds, nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import alive, eventually

from taskstream.cli.box import watch_over
from taskstream.cli.children import Changed, Child, ChildEnded, Children, Events, Signalled, listening

POLITE = (
    "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print('up', flush=True); time.sleep(60)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
HURRIED = """
import signal, time
seen = []
def stop(*_):
    seen.append(1)
    print("term", len(seen), flush=True)
    if len(seen) > 1: exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while True: time.sleep(60)
"""


class Box:
    """Children made of one-line programs, and what was said about them."""

    def __init__(self, tmp_path: Path) -> None:
        self.events = Events()
        self.said: list[str] = []
        self._tmp_path = tmp_path
        self.children: list[Child] = []

    def child(self, program: str) -> Child:
        output = self._tmp_path / f"out{len(self.children)}"
        code = f"import os, sys; f = open({str(output)!r}, 'a'); os.dup2(f.fileno(), 1)\n{program}"
        self.children.append(Child(f"child {len(self.children)}", [sys.executable, "-c", code], dict(os.environ)))
        return self.children[-1]

    def output(self, index: int = 0) -> str:
        path = self._tmp_path / f"out{index}"
        return path.read_text() if path.exists() else ""

    def all(self) -> Children:
        return Children(self.children, self.events, self.said.append)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    for child in box.children:
        child.kill()


def test_stop_asks_first(box: Box) -> None:
    child = box.child(POLITE)
    children = box.all()
    children.start()
    eventually(lambda: "up" in box.output())
    pid = child.pid
    assert pid is not None
    begun = time.monotonic()
    assert children.stop(30.0) is False
    assert time.monotonic() - begun < 10.0
    assert not alive(pid)


def test_stop_kills_after_the_grace(box: Box) -> None:
    child = box.child(DEAF)
    children = box.all()
    children.start()
    eventually(lambda: "up" in box.output())
    pid = child.pid
    assert pid is not None
    assert children.stop(0.3) is False
    assert not alive(pid)


def test_a_second_signal_is_passed_on_and_a_third_kills(box: Box) -> None:
    box.child(HURRIED)
    box.child(DEAF)
    children = box.all()
    children.start()
    eventually(lambda: "up" in box.output(0) and "up" in box.output(1))
    pids = [child.pid for child in box.children]
    box.events.put(Signalled(signal.SIGINT))
    box.events.put(Signalled(signal.SIGINT))
    begun = time.monotonic()
    assert children.stop(60.0) is True
    assert time.monotonic() - begun < 10.0
    assert not any(pid is not None and alive(pid) for pid in pids)


def test_the_first_signal_while_restarting_hurries_nobody(box: Box) -> None:
    # Given a child that takes its time to stop for a restart, and the user's first signal
    box.child(HURRIED)
    children = box.all()
    children.start()
    eventually(lambda: "up" in box.output())
    box.events.put(Signalled(signal.SIGINT))
    box.events.put(Changed(("again.py",)))
    # When it is stopped, then it is asked once only
    assert children.stop(1.0, restart=True) is True
    assert (box.output().count("term"), box.said) == (1, ["stopping"])
    # And what changed meanwhile is kept
    assert (box.events.take_changes(), box.events.take_changes()) == (("again.py",), ())


def test_the_second_signal_while_restarting_hurries(box: Box) -> None:
    box.child(HURRIED)
    children = box.all()
    children.start()
    eventually(lambda: "up" in box.output())

    def user() -> None:
        eventually(lambda: "term 1" in box.output())
        box.events.put(Signalled(signal.SIGINT))
        box.events.put(Signalled(signal.SIGINT))

    thread = threading.Thread(target=user)
    thread.start()
    begun = time.monotonic()
    assert children.stop(60.0, restart=True) is True
    assert time.monotonic() - begun < 30.0
    thread.join()
    assert box.output().count("term") == 2


def test_what_died_is_started_again_with_backoff(box: Box) -> None:
    box.child("print('ran', flush=True); raise SystemExit(1)")
    children = box.all()
    children.start()

    def ran_thrice() -> bool:
        children.tend()
        return box.output().count("ran") >= 3

    begun = time.monotonic()
    eventually(ran_thrice, timeout=20.0)
    assert time.monotonic() - begun > 1.4  # 0.5 s, then 1 s
    assert box.said[:2] == [
        "child 0 ended with exit status 1; starting it again in 0.5 s",
        "child 0 ended with exit status 1; starting it again in 1.0 s",
    ]


def test_a_child_with_a_configuration_that_cannot_work_is_not_started_again(box: Box) -> None:
    child = box.child("raise SystemExit(2)")
    children = box.all()
    children.start()
    assert eventually(children.tend) == [child]
    assert (children.tend(), children.patience(), child.pid) == ([], None, None)


def test_what_a_dead_child_leaves_behind_may_finish_and_is_gone_after_the_stop(box: Box) -> None:
    # Given a child that is killed while a child of its own runs
    box.child(
        "import subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(inner.pid, flush=True)\ntime.sleep(60)"
    )
    children = box.all()
    children.start()
    inner = int(eventually(lambda: box.output().strip()))
    child = box.children[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    # When the parent notices
    eventually(lambda: children.tend() is not None and child.restart_at is not None)
    assert box.said == ["child 0 ended by SIGKILL; starting it again in 0.5 s"]
    # Then the inner process still runs, and is gone once everything was stopped
    assert alive(inner)
    children.stop(0.5)
    eventually(lambda: not alive(inner))


def test_signals_and_ends_of_children_become_events(box: Box) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background of a script
    with listening(box.events):
        assert signal.getsignal(signal.SIGINT) is not before
        os.kill(os.getpid(), signal.SIGTERM)
        assert box.events.get(timeout=5.0) == Signalled(signal.SIGTERM)
        box.child("pass").start()
        assert box.events.get(timeout=5.0) == ChildEnded()
    assert signal.getsignal(signal.SIGINT) is before


def test_watch_over_ends_with_a_signal(box: Box) -> None:
    box.child(POLITE)
    box.events.put(Signalled(signal.SIGTERM))
    assert watch_over(box.all(), box.events, 5.0) == 0
    assert box.children[0].pid is None


def test_watch_over_gives_up_where_nothing_can_change(box: Box) -> None:
    box.child(POLITE)
    box.child("raise SystemExit(2)")
    assert watch_over(box.all(), box.events, 5.0) == 2
    assert [child.pid for child in box.children] == [None, None]


def test_watch_over_starts_anew_only_if_the_change_is_good(box: Box) -> None:
    child = box.child(POLITE)
    seen: list[tuple[str, ...]] = []
    pids: list[int | None] = []

    def on_change(paths: tuple[str, ...], running: bool) -> bool:
        assert running
        pids.append(child.pid)
        seen.append(paths)
        return paths == ("good.py",)

    def author() -> None:
        """Edits, looks, edits again, stops."""
        eventually(lambda: box.output().count("up") == 1)
        box.events.put(Changed(("bad.py",)))
        box.events.put(Changed(("good.py",)))
        eventually(lambda: box.output().count("up") == 2)
        box.events.put(Changed(("bad.py",)))
        box.events.put(Signalled(signal.SIGTERM))

    thread = threading.Thread(target=author)
    thread.start()
    assert watch_over(box.all(), box.events, 5.0, on_change) == 0
    thread.join()
    assert seen == [("bad.py",), ("good.py",), ("bad.py",)]
    assert pids[0] == pids[1] != pids[2]


def test_watch_over_starts_nothing_that_broke_while_stopping(box: Box) -> None:
    child = box.child(
        "import signal, time\n"
        "def stop(*_):\n    print('stopping', flush=True)\n    time.sleep(1)\n    exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    asked: list[tuple[str, bool, bool]] = []

    def on_change(paths: tuple[str, ...], running: bool) -> bool:
        asked.append((paths[0], running, child.pid is not None))
        return paths != ("broken.py",)

    def author() -> None:
        """Saves good code, then broken code while the children stop; later repairs it, and stops."""
        eventually(lambda: "up" in box.output())
        box.events.put(Changed(("good.py",)))
        eventually(lambda: "stopping" in box.output())
        box.events.put(Changed(("broken.py",)))
        eventually(lambda: len(asked) == 2)
        box.events.put(Changed(("repaired.py",)))
        eventually(lambda: box.output().count("up") == 2)
        box.events.put(Signalled(signal.SIGTERM))

    thread = threading.Thread(target=author)
    thread.start()
    assert watch_over(box.all(), box.events, 5.0, on_change) == 0
    thread.join()
    assert asked == [("good.py", True, True), ("broken.py", False, False), ("repaired.py", False, False)]
    assert box.output().count("up") == 2


def test_watch_over_stops_all_where_nothing_can_be_said_any_more(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> None:
        raise OSError(errno.EIO, "the terminal is gone")

    monkeypatch.setattr("taskstream.cli.box.note", gone)
    child = box.child(POLITE)
    box.events.put(Signalled(signal.SIGHUP))
    with pytest.raises(OSError, match="the terminal is gone"):
        watch_over(box.all(), box.events, 5.0)
    assert child.pid is None
