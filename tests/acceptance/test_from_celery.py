"""The example of docs/from-celery.md, after the move: its worker and its script, as its README says to run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import redis
from guides import EXAMPLE
from helpers import Started, eventually

from taskstream import keys

OUTPUT = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_project_that_was_moved_over_does_what_its_readme_says(
    tmp_path: Path, broker_url: str, redis_client: redis.Redis, start_cli: Callable[..., Started]
) -> None:
    # Given the project and its pool
    folder = tmp_path / "after"
    shutil.copytree(EXAMPLE / "after", folder, ignore=shutil.ignore_patterns("__pycache__"))
    env = {"TASKSTREAM_BROKER": broker_url, "TASKSTREAM_RESULTS": "file://results", "PYTHONWARNINGS": "error"}
    start_cli("worker", "-A", "shop.app", "--processes", "1", "--lease", "1", cwd=folder, env=env)

    # When the orders are placed
    placed = subprocess.run(
        [sys.executable, "place_orders.py"],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    # Then what is printed is what the README shows, one order that nobody can fill among it
    shown = OUTPUT.search((EXAMPLE / "README.md").read_text(encoding="utf-8"))
    assert shown is not None
    assert placed.stdout == shown[1], placed.stderr
    assert placed.returncode == 0
    # and the worker knows when prices are to be updated
    eventually(lambda: redis_client.hkeys(keys.ticks("shop")), 10, "no tick is expected")
