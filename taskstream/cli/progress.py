"""How far long work has got: a bar on a terminal, a line now and then elsewhere. Both on stderr, beside the output."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from taskstream.cli.output import note

LINE_EVERY_S = 2.0

SHORT = 1000
"""Work of fewer steps is over before anybody could read how far it is."""


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of ``total`` steps; call what it gives with how many more have been done."""
    if total < SHORT:
        yield lambda steps: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda steps: bar.advance(task, steps)
    else:
        yield _Lines(doing, total).advance


class _Lines:
    def __init__(self, doing: str, total: int) -> None:
        self._doing = doing
        self._total = total
        self._done = 0
        self._said_at = time.monotonic()

    def advance(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said_at >= LINE_EVERY_S:
            self._said_at = now
            note(f"{self._doing}: {self._done} of {self._total}")
