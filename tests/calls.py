"""An app of tasks that note when they start and end, for tests of what is said about single calls."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MODULE = """
import os
import time
from pathlib import Path

from taskstream import Taskstream

HERE = Path(__file__).parent
app = Taskstream("calls", results="json://results")

if "CALLS_SKEW" in os.environ:
    # The clock of this host is wrong.
    skew = float(os.environ["CALLS_SKEW"])
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + skew
    time.time_ns = lambda: real_ns() + int(skew * 1e9)


def note(*words):
    line = " ".join(map(str, words)) + "\\n"
    file = os.open(HERE / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def run(key, name, seconds, fails):
    note("start", key, name)
    if fails and not (HERE / f"failed-{key}-{name}").exists():
        (HERE / f"failed-{key}-{name}").touch()
        note("failed", key, name)
        raise ValueError(name)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (HERE / f"go-{name}").exists():
        time.sleep(0.01)
    note("end", key, name)
    return name


@app.task(autoretry_for=(ValueError,), max_retries=1, retry_backoff=0.05, max_deliveries=100)
def turn(key: str, name: str, seconds: float = 0.0, fails: bool = False) -> str:
    return run(key, name, seconds, fails)


@app.task
def once_only(key: str, name: str, fails: bool = False) -> str:
    return run(key, name, 0.0, fails)


@app.task(unique=True, autoretry_for=(ValueError,), max_retries=1, retry_backoff=0.3)
def unique(name: str, seconds: float = 0.0, fails: bool = False, dies: bool = False) -> str:
    if dies:
        raise RuntimeError(name)
    return run("unique", name, seconds, fails)


@app.task
def hog(name: str, seconds: float) -> None:
    # Nothing else runs in its process, and nothing of it is noticed there.
    note("start", "hog", name)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
"""


class Note(NamedTuple):
    """One line of what ran: start, failed or end."""

    what: str
    key: str
    name: str


def write_app(folder: Path) -> ModuleType:
    """Put the app into ``folder``, and load it here too, to send its calls."""
    (folder / "calls_app.py").write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("calls_app", folder / "calls_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop("calls_app", None)
    spec.loader.exec_module(module)
    return module


def notes(folder: Path, key: str | None = None) -> list[Note]:
    """What ran until now, in order."""
    try:
        lines = (folder / "runs").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = [Note(*line.split(" ")) for line in lines]
    return [one for one in found if key is None or one.key == key]


def broken_turns(found: list[Note]) -> list[Note]:
    """Where in the runs of one key another message starts while one is not through with all of its tries."""
    wrong = []
    current: str | None = None
    done: set[str] = set()
    for one in found:
        if one.what == "start" and current not in (None, one.name) and current not in done:
            wrong.append(one)
        if one.what == "end":
            done.add(one.name)
        current = one.name
    return wrong
