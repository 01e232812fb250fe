"""What a start must not load: the structure that keeps it quick, not the time it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("redis", "hiredis", "gevent", "marshmallow", "flask", "asyncio", "ssl", "sqlite3", "psutil", "rich", "granian")

OVERVIEW = 'from taskstream.cli.main import main\nmain(["--help"])'

SUPERVISOR = """
from taskstream.cli.main import main
from taskstream_worker.supervisor import Supervisor

Supervisor.run = lambda self: 0
assert main(["worker", "-A", "shop:app", "--broker", "redis://:secret@localhost:6379/0"]) == 0
"""

PLAIN_TASKS = """
from taskstream import Taskstream

app = Taskstream("shop", broker="redis://localhost:1", results=None)


@app.task
def label(parcel: int, text: str | None = None, *, weight: float = 1.0) -> str:
    return text or ""


task = app.tasks["shop.label"]
message = task.message((1,), {"text": "x", "weight": 2.5})
assert task.arguments_in(message.body) == ([1], {"text": "x", "weight": 2.5})
"""

POOL_OF_DEV = "import taskstream_worker.__main__"


@pytest.mark.parametrize(
    ("code", "also"),
    [
        ("import taskstream", ("click", "msgspec", "logging")),
        (OVERVIEW, ("msgspec", "logging", "dataclasses", "asyncio")),
        (SUPERVISOR, ()),
        (POOL_OF_DEV, ("click",)),
    ],
    ids=["package", "help", "supervisor", "pool of dev"],
)
def test_nothing_heavy_is_loaded(code: str, also: tuple[str, ...], tmp_path: Path) -> None:
    assert not loaded_by(code, tmp_path) & {*HEAVY, *also}


def test_tasks_of_plain_types_need_no_marshmallow(tmp_path: Path) -> None:
    assert not loaded_by(PLAIN_TASKS, tmp_path) & {"marshmallow", "gevent", "flask"}
    assert "marshmallow" in loaded_by(PLAIN_TASKS.replace("text: str", "text: dict[str, int] | str"), tmp_path)


def loaded_by(code: str, tmp_path: Path) -> set[str]:
    told = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", told], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_patching_looks_for_plugins_once_and_calls_them(tmp_path: Path) -> None:
    # Given an installed package that wants to be told when gevent has patched
    metadata = tmp_path / "plug-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[gevent.plugins.monkey.did_patch_all]\nplug = plug:told\n")
    (tmp_path / "plug.py").write_text("def told(event): print('told', type(event).__name__)\n")
    looks = """
import importlib.metadata
looks = []
look = importlib.metadata.entry_points
importlib.metadata.entry_points = counted = lambda **wanted: looks.append(wanted) or look(**wanted)
from taskstream_worker.patching import patch_all
patch_all()
import socket
print(socket.socket.__module__, len(looks), importlib.metadata.entry_points is counted)
"""
    # When a worker process patches
    done = subprocess.run([sys.executable, "-c", looks], cwd=tmp_path, capture_output=True, text=True)
    # Then it has been told, after one look
    assert done.stdout.split("\n")[:2] == ["told GeventDidPatchAllEvent", "gevent._socket3 1 True"], done.stderr
