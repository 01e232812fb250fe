"""Where results are kept, told from outside: does another process write to the very store that this one reads?

A folder is told by a random mark inside it, because neither path nor host name can say it: two containers share a
volume under different host names, two hosts have a folder of one path each.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskstream.display import display_url
from taskstream.results.base import ResultStore

MARK = ".store-id"
"""Name of the file that tells one result folder from another."""


def describe(store: ResultStore | None, *, make_mark: bool) -> dict[str, str | None] | None:
    """What a process says about its result store: ``url`` (no password), ``host``, ``mark``; None without a store.

    Whoever writes to the store makes the mark; who only reads leaves no trace. ``mark`` is None for a store that is
    no folder, and for a folder that has none.
    """
    if store is None:
        return None
    return {"url": display_url(store.url), "host": socket.gethostname(), "mark": _mark(store.url, make_mark)}


def same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether the reader of ``mine`` sees what the writer of ``theirs`` writes."""
    if theirs.get("mark"):
        return bool(mine.get("mark") == theirs["mark"])
    if mine["url"] != display_url(str(theirs.get("url"))):
        return False
    return _folder(mine["url"]) is None or mine["host"] == theirs.get("host")


def named(description: Mapping[str, Any]) -> str:
    """Host and path for a person to read."""
    url = display_url(str(description.get("url")))
    folder = _folder(url)
    if folder is None:
        return url
    return f"{folder} on host {description.get('host')}"


def _folder(url: str) -> Path | None:
    scheme, _, rest = url.partition("://")
    return Path(rest) if scheme in ("file", "json") else None


def _mark(url: str, make: bool) -> str | None:
    folder = _folder(url)
    if folder is None:
        return None
    path = folder / MARK
    with contextlib.suppress(OSError):
        if make and not path.exists():
            _create(path)
        return path.read_text(encoding="ascii").strip() or None
    return None


def _create(path: Path) -> None:
    """Make the mark whole or not at all; of two that try at once, one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=MARK, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
