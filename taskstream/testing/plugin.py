"""The pytest plugin: fixtures ``taskstream_app`` and ``taskstream_worker`` (docs/testing.md).

Every pytest run in an environment that has Taskstream loads it, so it imports nothing before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from taskstream import Taskstream
    from taskstream.testing import Worker

INI = "taskstream_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting that says which app the fixtures are about."""
    parser.addini(INI, "the Taskstream app under test: package.module:app", default="")


@pytest.fixture
def taskstream_app(pytestconfig: pytest.Config) -> Taskstream:
    """The app that the setting ``taskstream_app`` names, else an empty one; a conftest may give another.

    Used without ``taskstream_worker`` it has the broker that its code names.
    """
    named = pytestconfig.getini(INI)
    if named:
        from taskstream.app.loading import load_app

        return load_app(named)
    from taskstream import Taskstream

    return Taskstream("test")


@pytest.fixture
def taskstream_worker(taskstream_app: Taskstream) -> Iterator[Worker]:
    """A worker for the app, which has a broker and a result store in memory as long as the test lasts."""
    from taskstream.testing import in_memory

    with in_memory(taskstream_app) as worker:
        yield worker
