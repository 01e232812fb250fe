"""Result stores that are not Taskstream's own: objects given to an app, and those that packages bring by entry point.

Nothing is kept here; whatever such a store raises becomes what the contract says, so that a worker pauses and tries on
instead of losing what it holds.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from taskstream.display import display_url
from taskstream.errors import ConfigError, ResultUnavailable, TaskstreamError
from taskstream.import_problem import import_problem
from taskstream.results.base import Outcome, ResultStore
from taskstream.results.errors import ResultStoreError

ENTRY_POINTS = "taskstream.results"
"""Group of entry points: the name is the scheme of a URL, the object makes a store of it (``StoreFactory``)."""

StoreFactory = Callable[..., ResultStore]
"""Called as ``factory(url, base=Path, retention=seconds, fsync="commit" | "checkpoint")``."""

_METHODS = ("write", "read", "sweep", "close")


class PluggedStore:
    """Somebody else's store, held to the contract of ResultStore."""

    def __init__(self, store: Any, what: str) -> None:
        """Raises ConfigError, naming ``what`` was given, for an object that is no store."""
        missing = [name for name in _METHODS if not callable(getattr(store, name, None))]
        if missing or not isinstance(getattr(store, "url", None), str):
            lacks = ", ".join([*(f"{name}()" for name in missing), *([] if missing else ["url (text)"])])
            raise ConfigError(f"{what} is no result store, it has no {lacks}: see docs/results.md")
        self._store: ResultStore = store
        self.url: str = store.url

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Keep a batch. Raises OSError, whatever the store's own errors are."""
        try:
            self._store.write(outcomes)
        except OSError:
            raise
        except Exception as error:
            raise ResultStoreError(
                errno.EIO, f"result store {display_url(self.url)} did not keep a batch: {_told(error)}"
            ) from error

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        """The outcomes of a message. Raises ResultUnavailable."""
        try:
            return self._store.read(message_id, group)
        except TaskstreamError:
            raise
        except Exception as error:
            raise ResultUnavailable(f"result store {display_url(self.url)} cannot be read: {_told(error)}") from error

    def forget(self, message_id: str, group: str | None = None) -> None:
        """Delete the outcomes of a message. Raises ResultUnavailable, also for a store that cannot do that."""
        if not callable(getattr(self._store, "forget", None)):
            raise ResultUnavailable(f"result store {display_url(self.url)} has no forget(): it keeps what it has")
        try:
            self._store.forget(message_id, group)
        except TaskstreamError:
            raise
        except Exception as error:
            raise ResultUnavailable(f"result store {display_url(self.url)} cannot forget: {_told(error)}") from error

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        """Delete what is older than the retention. Raises OSError."""
        try:
            return self._store.sweep(now_ms, limit)
        except (OSError, TaskstreamError):
            raise
        except Exception as error:
            raise ResultStoreError(
                errno.EIO, f"result store {display_url(self.url)} did not sweep: {_told(error)}"
            ) from error

    def close(self) -> None:
        """Release what the store holds; its next use may open it again."""
        self._store.close()


def factory_for(scheme: str) -> EntryPoint | None:
    """What an installed package registered for URLs of ``scheme``, None if none did."""
    return next(iter(entry_points(group=ENTRY_POINTS, name=scheme)), None)


def open_plugged(found: EntryPoint, url: str, *, base: Path, retention: float, fsync: str) -> PluggedStore:
    """The store that a package makes of ``url``. Raises ConfigError."""
    what = f"results {display_url(url)} by {found.value}"
    try:
        factory: StoreFactory = found.load()
        store = factory(url, base=base, retention=retention, fsync=fsync)
    except TaskstreamError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} cannot be opened: {import_problem(error)}") from error
    return PluggedStore(store, what)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
