"""Tells ``taskstream dev`` which source files changed. It never restarts anything."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from taskstream.cli.children import Changed, Events

DEBOUNCE_MS = 300
"""Changes closer together than this are one change: editors write in several steps."""

SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


class SourceFilter:
    """Which files count: Python anywhere below ``folder``; JSON only if it is configuration or lies in a package.

    Other JSON is what handlers save, which must not restart them.
    """

    def __init__(self, folder: Path, packages: Collection[str], config_files: Collection[str]) -> None:
        self._folder = folder.resolve()
        # An app that is one module has no folder of its own.
        self._packages = [found for found in map(Path, packages) if found.resolve() != self._folder]
        self._config = {Path(file).resolve() for file in config_files}

    def __call__(self, change: object, path: str) -> bool:
        """For watchfiles: whether a change of ``path`` counts."""
        found = Path(path)
        if found in self._config:
            return True
        try:
            inner = found.relative_to(self._folder).parts
        except ValueError:
            return False
        if any(part in SKIPPED or part.startswith(".") for part in inner):
            return False
        if found.suffix == ".json":
            return any(found.is_relative_to(package) for package in self._packages)
        return found.suffix == ".py"


@contextmanager
def watching(folder: Path, wanted: SourceFilter, events: Events) -> Iterator[None]:
    """Put an event for every burst of changes that ``wanted`` lets through, meanwhile."""
    from watchfiles import watch

    stop = threading.Event()

    def look() -> None:
        changes = watch(
            folder, watch_filter=wanted, debounce=DEBOUNCE_MS, stop_event=stop, rust_timeout=500, raise_interrupt=False
        )
        for batch in changes:
            events.put(Changed(tuple(sorted(path for _, path in batch))))

    thread = threading.Thread(target=look, name="taskstream-reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5.0)
