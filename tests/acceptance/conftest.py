"""A running system that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from box import Box
from helpers import OwnServer


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """`taskstream run` around the app of ``jobs_app``; its tests leave it running."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "valkey").mkdir()
    server = OwnServer(folder / "valkey")
    found = Box("jobs_app", folder / "app", server)
    try:
        found.start()
        yield found
    finally:
        found.remove()
        server.stop()
