"""Event apps written into a folder of the test's own and loaded from there."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskstream.events import Loaded, load
from taskstream.events.chain import RunAsync

_numbers = itertools.count(1)

HEAD = """
import asyncio, dataclasses, datetime, enum, uuid
from decimal import Decimal
from typing import Any, Literal, Optional, Union
from taskstream.app.api import event_api
from taskstream.app.context import EventContext, PostprocessHook, PreprocessHook
from taskstream.app.logger import app_extra_logger
from taskstream.dataobjects import dataobject
from taskstream.errors import ValidationError

@dataobject
class In:
    text: str
    count: int = 1

@dataobject
class Out:
    text: str
"""

MakeApp = Callable[..., Loaded]


@pytest.fixture
def run_async() -> Iterator[RunAsync]:
    """Runs coroutines on a loop of the test's own; ``runs`` on it counts the hand-overs."""
    with asyncio.Runner() as runner:

        def run(coroutine: Any) -> Any:
            run.runs += 1  # type: ignore[attr-defined]
            return runner.run(coroutine)

        run.runs = 0  # type: ignore[attr-defined]
        yield run


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_async: RunAsync) -> MakeApp:
    """``make_app(modules={"name": source}, events={…})`` → Loaded. Sources come after HEAD."""

    def make(
        modules: dict[str, str],
        events: dict[str, Any],
        *,
        env: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        version: str = "1.0",
        run: RunAsync = run_async,
    ) -> Loaded:
        name = f"test-app-{next(_numbers)}"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        package = tmp_path / name.replace("-", "_")
        package.mkdir()
        (package / "__init__.py").touch()
        for module, source in modules.items():
            (package / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"app": {"name": name, "version": version}, "env": env or {}, "events": events}))
        (tmp_path / "server.json").write_text(json.dumps(server or {}))
        return load([tmp_path / "server.json", config], run)

    return make
