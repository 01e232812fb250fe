"""From a URL to a result store. The one place that knows which stores there are."""

from __future__ import annotations

from pathlib import Path

from taskstream.connection import PRODUCER, open_pool
from taskstream.errors import ConfigError
from taskstream.results.base import ResultStore
from taskstream.results.json_files import JsonFileStore
from taskstream.results.plugged import PluggedStore, factory_for, open_plugged
from taskstream.results.redis_store import RedisStore
from taskstream.results.sqlite import SqliteStore

DEFAULT_RETENTION_S = 7 * 86_400.0

FSYNC_POLICIES = ("commit", "checkpoint")
"""``commit``: a batch is on the disk when ``write`` returns. ``checkpoint``: it is in the operating system's
hands, so it survives the end of any process but not a power cut."""

REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel")
_FOLDERS = ("file", "json")


BROKERS_OWN = "redis://"
"""As a result store: the server that is the broker, wherever that is."""


def open_store(
    url: str | None,
    *,
    base: Path,
    retention: float = DEFAULT_RETENTION_S,
    fsync: str = "commit",
    broker_url: str | None = None,
) -> ResultStore | None:
    """The result store at ``url``; None (keep no results) for None and ``"null"``.

    ``file://FOLDER`` SQLite · ``json://FOLDER`` one file per message · ``redis://…`` for several hosts, ``redis://``
    alone the server at ``broker_url`` · any other scheme that an installed package brings a store for
    (``taskstream.results.plugged``). A relative folder is relative to ``base``; it is taken as it is written, without
    percent-decoding.
    ``retention`` in seconds. An existing database is looked at; nothing is made before the first write.
    Raises ConfigError.
    """
    if url is None or url == "null":
        return None
    if retention <= 0:
        raise ConfigError(f"results: retention {retention!r} has to be more than 0 seconds")
    if fsync not in FSYNC_POLICIES:
        raise ConfigError(f"results: fsync {fsync!r} is unknown, use one of {', '.join(FSYNC_POLICIES)}")
    if url == BROKERS_OWN and broker_url is not None:
        url = broker_url
    check_url(url)
    scheme, _, rest = url.partition("://")
    if scheme in REDIS_SCHEMES:
        return RedisStore(url, retention=retention)
    if scheme not in _FOLDERS and (found := factory_for(scheme)) is not None:
        return open_plugged(found, url, base=base, retention=retention, fsync=fsync)
    folder = (base / rest).absolute()
    if scheme == "json":
        return JsonFileStore(folder, retention=retention, fsync=fsync)
    store = SqliteStore(folder, retention=retention, fsync=fsync)
    store.check()
    return store


def check_results(given: str | ResultStore | None) -> str | ResultStore | None:
    """What an app's author gave for ``results``: a URL as it is, a store's object held to its contract, or None.

    Opens nothing. Raises ConfigError for what is none of them.
    """
    if given is None or isinstance(given, str):
        return given
    return PluggedStore(given, f"results={given!r:.200}")


def check_url(url: str) -> None:
    """Raise ConfigError for a URL that names no result store. Opens nothing."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in REDIS_SCHEMES:
        open_pool(url, PRODUCER).disconnect()  # connects to nothing
    elif url == "null" or (scheme in _FOLDERS and rest and "\0" not in rest):
        return
    elif scheme in _FOLDERS or not separator or factory_for(scheme) is None:
        raise ConfigError(
            f"results URL {url!r} cannot be used: use file://FOLDER, json://FOLDER, redis://HOST:PORT/DB or null, "
            "or install what brings its scheme"
        )
