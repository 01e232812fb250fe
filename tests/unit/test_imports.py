"""The rules of docs/architecture.md hold in this checkout, and the checker notices when one is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT
from import_rules import MAX_LINES, floors_of, violations

FLOORS = {
    "taskstream": 4,
    "taskstream.keys": 1,
    "taskstream.message": 2,
    "taskstream.handler": 2,
    "taskstream.broker": 3,
    "taskstream.cli": 6,
    "taskstream_worker": 6,
    "taskstream_webapp": 6,
}
CLEAN = {
    "taskstream/__init__.py": "from taskstream.message import Message\n",
    "taskstream/keys.py": 'PREFIX = "ts:"\n',
    "taskstream/message.py": '"""XADD writes it, under ts:… keys."""\nfrom taskstream import keys\n',
    "taskstream/handler.py": "from taskstream.message import Message\n",
    "taskstream/broker/__init__.py": "from .publisher import publish\n",
    "taskstream/broker/publisher.py": 'def publish(c):\n    c.xadd("s", {})\n    c.send("XGROUP CREATE")\n',
    "taskstream/cli/__init__.py": "",
    "taskstream/cli/worker.py": "def run():\n    from taskstream_worker.pool import start\n    start()\n",
    "taskstream/scripts/renew.lua": 'redis.call("ZADD", KEYS[1])\n',
    "worker/__init__.py": "",
    "worker/pool.py": "import gevent\nfrom taskstream.broker import publish\nfrom . import stats\n",
    "worker/stats.py": "from taskstream import Message\n",
    "webapp/__init__.py": "import flask\nfrom taskstream.broker import publish\n",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_checkout_keeps_the_rules() -> None:
    floors = floors_of((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert floors["taskstream.keys"] == 1 and floors["taskstream_worker"] == 6 and floors["taskstream.broker"] == 3
    found = violations(ROOT, floors)
    assert not found, "\n" + "\n".join(found)


def test_a_clean_tree_is_clean(tmp_path: Path) -> None:
    assert violations(plant(tmp_path, CLEAN), FLOORS) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("taskstream/message.py", "import flask\n", "taskstream/message.py:1: taskstream may not import flask"),
        ("taskstream/message.py", "def f():\n    from gevent import pool\n", ":2: taskstream may not import gevent"),
        ("taskstream/cli/web.py", "def f():\n    import flask\n", ":2: taskstream may not import flask"),
        ("taskstream/message.py", 'import importlib\nimportlib.import_module("gevent.pool")\n', "import gevent"),
        (
            "taskstream/message.py",
            "def f():\n    import taskstream_worker\n",
            "only inside a function of taskstream/cli",
        ),
        ("taskstream/cli/web.py", "import taskstream_webapp\n", "only inside a function of taskstream/cli"),
        ("worker/stats.py", "def f():\n    import taskstream_webapp\n", "taskstream_worker may not import"),
        ("worker/stats.py", "import flask\n", "taskstream_worker may not import flask"),
        ("webapp/views.py", "from taskstream_worker import pool\n", "taskstream_webapp may not import"),
        ("taskstream/message.py", "from taskstream import broker\n", "(floor 2) imports taskstream.broker (floor 3)"),
        ("taskstream/message.py", "from .broker import publish\n", "(floor 2) imports taskstream.broker (floor 3)"),
        ("taskstream/keys.py", "def f():\n    import taskstream.message\n", "(floor 1) imports taskstream.message"),
        ("taskstream/message.py", "from taskstream import Message\n", "imports taskstream (floor 4)"),
        (
            "taskstream/message.py",
            "from taskstream import handler\n",
            "circle: taskstream.message → taskstream.handler",
        ),
        ("worker/stats.py", "def f():\n    from . import pool\n", "circle: taskstream_worker.pool"),
        ("taskstream/extra.py", "", "taskstream.extra has no floor"),
        ("taskstream/message.py", 'def key(s):\n    return f"ts:{s}"\n', "only taskstream/keys.py spells out keys"),
        ("webapp/views.py", 'KEY = b"ts:workers"\n', "only taskstream/keys.py spells out keys"),
        ("taskstream/scripts/renew.lua", "redis.call('GET', 'ts:x')\n", "a script gets its keys from"),
        ("taskstream/handler.py", 'def f(c):\n    c.xack("s", "g", "1")\n', "sends stream commands: xack"),
        ("taskstream/handler.py", 'def f(c):\n    c.xinfo_groups("s")\n', "sends stream commands: xinfo_groups"),
        ("worker/stats.py", 'def f(c):\n    c.execute_command("XREADGROUP")\n', "sends stream commands"),
        ("worker/stats.py", 'def f(c):\n    c.pack(b"xgroup create")\n', "sends stream commands"),
        ("worker/stats.py", "#\n" * (MAX_LINES + 1), f"{MAX_LINES + 1} lines: split it"),
        ("taskstream/scripts/renew.lua", "--\n" * (MAX_LINES + 1), f"{MAX_LINES + 1} lines: split it"),
    ],
)
def test_a_broken_rule_is_noticed(tmp_path: Path, path: str, text: str, expected: str) -> None:
    found = violations(plant(tmp_path, {**CLEAN, path: text}), FLOORS)
    assert any(expected in line for line in found), found


def test_what_only_a_type_checker_sees_closes_no_circle(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from taskstream.handler import Message\n"
    assert violations(plant(tmp_path, {**CLEAN, "taskstream/message.py": text}), FLOORS) == []


def test_the_table_of_floors_is_read_as_it_is_written() -> None:
    table = """
| floor | modules | role |
| --- | --- | --- |
| 6 | `worker/` (imported as `taskstream_worker`) | the pool |
| 5 | `taskstream/events/` | events |
| 3 | `taskstream/control.py` | control |
| 2 | `message.py handler.py` | values |
| 1 | `keys.py scripts/*.lua` | names |
"""
    assert floors_of(table) == {
        "taskstream": 4,
        "taskstream_worker": 6,
        "taskstream.events": 5,
        "taskstream.control": 3,
        "taskstream.message": 2,
        "taskstream.handler": 2,
        "taskstream.keys": 1,
        "taskstream.scripts": 1,
    }
