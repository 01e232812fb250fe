"""Broker URLs and connections: which server, with which timeouts. Sends no commands of its own.

Every connection has the client's own retries switched off: a retry after a lost reply would put a message
into the stream twice, and one outer loop that rebuilds everything is all a consumer needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import (
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from taskstream.display import display_url
from taskstream.errors import BrokerUnavailable, ConfigError, TaskstreamError, WrongKind

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0
"""How long a producer waits for a reply before it says BrokerUnavailable."""

BLOCK_MS = 5_000
"""How long a consumer's read waits on the server; half of what its socket waits (see CONSUMER)."""


@dataclass(frozen=True)
class Profile:
    """Timeouts (s) and size of the connections of one role."""

    socket_timeout: float
    max_connections: int = 1
    connect_timeout: float = CONNECT_TIMEOUT_S


PRODUCER = Profile(socket_timeout=READ_TIMEOUT_S, max_connections=16)
CONSUMER = Profile(socket_timeout=2 * BLOCK_MS / 1000)

_UNAUTHENTICATED = "Protocol error: unauthenticated"
"""What a server says to more than ten arguments, or to a long one, before it says NOAUTH."""

# Replies that say "not now" rather than "never": starting, failing over, full.
_PASSING = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "OOM",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",
    "max number of clients",
)


Opener = Callable[[str, dict[str, Any]], ConnectionPool]
"""Makes a pool for a URL, with keyword arguments for its connections."""

_openers: dict[str, Opener] = {}


def add_scheme(scheme: str, opener: Opener) -> None:
    """From now on ``opener`` makes the pools of URLs of ``scheme``: for brokers that are no server."""
    _openers[scheme] = opener


def open_pool(url: str, profile: Profile) -> ConnectionPool:
    """A blocking, fork- and thread-safe pool for ``url``; connects on first use.

    Takes ``redis://``, ``rediss://`` (TLS), ``unix://`` and ``sentinel://host:port,host:port/service/db``.
    Raises ConfigError for any other URL.
    """
    common: dict[str, Any] = {
        "socket_timeout": profile.socket_timeout,
        "socket_connect_timeout": profile.connect_timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,  # one shape of replies on every server version
        "max_connections": profile.max_connections,
    }
    try:
        scheme = urlsplit(url).scheme
        if scheme in _openers:
            return _openers[scheme](url, common)
        if scheme == "sentinel":
            return _sentinel_pool(url, common)
        if scheme not in ("redis", "rediss", "unix"):
            hint = "; it is for tests: import taskstream.testing" if scheme == "memory" else ""
            raise ValueError(f"scheme {scheme!r}{hint}")
        options = parse_url(url)
        _check_database(scheme, url)
        options.setdefault(
            "connection_class",
            {"redis": Connection, "rediss": SSLConnection, "unix": UnixDomainSocketConnection}[scheme],
        )
        if scheme == "unix":
            common.pop("socket_keepalive")
        options = {**common, **options}
        pool = BlockingConnectionPool(timeout=profile.socket_timeout, **options)
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing; refuses options it does not know
        return pool
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"broker URL {display_url(str(url))!r} cannot be used ({error}): "
            "use redis://, rediss://, unix:// or sentinel://host:port,host:port/service/db"
        ) from None


def _check_database(scheme: str, url: str) -> None:
    """Refuse what the client library takes for database 0, or for a database of another number."""
    path = unquote(urlsplit(url).path).removeprefix("/").removesuffix("/")
    if scheme != "unix" and path and not (path.isascii() and path.isdigit()):
        raise ValueError(f"database {path!r} is no number")


def _sentinel_pool(url: str, common: dict[str, Any]) -> ConnectionPool:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    path = [unquote(piece) for piece in parts.path.split("/") if piece]
    if not hosts or not path:
        raise ValueError("a Sentinel URL names its hosts and the service")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":")
        sentinels.append((name or host, int(port) if name else 26379))
    user, _, password = credentials.partition(":")
    if credentials:
        common |= {"username": unquote(user) or None, "password": unquote(password) or None}
    sentinel_kwargs = {k: common[k] for k in ("socket_timeout", "socket_connect_timeout", "retry", "protocol")}
    manager = Sentinel(sentinels, sentinel_kwargs=sentinel_kwargs)
    db = int(path[1]) if len(path) > 1 else 0
    return _SentinelPool(path[0], manager, db=db, **common)  # type: ignore[no-untyped-call]


class _SentinelPool(SentinelConnectionPool):
    """Waits for a free connection, as the blocking pool does; the client's own raises an error."""

    def reset(self) -> None:
        super().reset()  # type: ignore[no-untyped-call]
        self._free = threading.Semaphore(self.max_connections)

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Connection:
        free = self._free
        if not free.acquire(timeout=self.connection_kwargs["socket_timeout"]):
            raise redis.ConnectionError("no connection became free in time")
        try:
            return super().get_connection()
        except BaseException:
            free.release()
            raise

    def release(self, connection: Any) -> None:
        super().release(connection)
        self._free.release()


def passing(error: Exception) -> bool:
    """Whether waiting may help: the server is away, starting, failing over or full."""
    if isinstance(error, redis.ResponseError):
        return str(error).startswith(_PASSING) or isinstance(
            error,
            (redis.exceptions.ReadOnlyError, redis.exceptions.BusyLoadingError, redis.exceptions.OutOfMemoryError),
        )
    return isinstance(error, (redis.RedisError, OSError)) and not isinstance(error, redis.DataError)


def translate(error: Exception, where: str, *, sent: bool, touched: Sequence[str] = ()) -> TaskstreamError:
    """What to raise instead of a client library's error: BrokerUnavailable, or ConfigError for what stays wrong.

    ``where`` names the broker; ``sent`` says whether the command had left when a connection error came. ``touched``
    are the keys of the command that an error reply is about, if known: no server names the one that holds another kind.
    """
    if isinstance(error, redis.AuthenticationError):
        return ConfigError(f"broker {where} refused the credentials: {error_text(error)}")
    if isinstance(error, redis.ResponseError) and _UNAUTHENTICATED in str(error):
        return ConfigError(f"broker {where} refused the credentials: NOAUTH Authentication required.")
    if isinstance(error, (redis.ResponseError, redis.DataError)):
        text = error_text(error)
        if passing(error):
            return BrokerUnavailable(f"broker {where} does not accept commands now: {text}{_remedy(error)}")
        if text.startswith("WRONGTYPE Operation") and touched:
            names = ", ".join(map(repr, touched))
            which = f"one of the keys {names}" if len(touched) > 1 else f"key {names}"
            problem = f"broker {where}: {which} holds another kind of value"
            return WrongKind(f"{problem}: find out who writes to it, and delete or rename that key")
        return ConfigError(f"broker {where} refused a command: {text}")
    text = error_text(error).rstrip(".") or type(error).__name__
    return BrokerUnavailable(f"broker {where} cannot be reached: {text}{_doubt(error, where, sent)}", maybe_sent=sent)


def error_text(error: Exception) -> str:
    """What the server said, with the code that the client library takes off the text of errors it knows."""
    code = getattr(error, "status_code", None)
    return str(error) if code in (None, "ERR") else f"{code} {error}"


@contextmanager
def broker_errors(where: str) -> Iterator[None]:
    """Translate a client library's errors raised inside, for commands that change no message."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise translate(error, where, sent=False) from error


def _doubt(error: Exception, where: str, sent: bool) -> str:
    """What may be wrong with the URL, where what went wrong looks like it."""
    if isinstance(error, redis.InvalidResponse):
        return "; this is no Redis server"
    no_handshake = isinstance(error, redis.TimeoutError) or "[SSL" in str(error)
    return "; is this port TLS?" if where.startswith("rediss://") and no_handshake and not sent else ""


def _remedy(error: Exception) -> str:
    """What helps where the server's own words do not say it."""
    return "; free space on the disk that holds its data" if "No space left on device" in str(error) else ""
