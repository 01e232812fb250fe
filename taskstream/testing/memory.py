"""``memory://NAME``: a broker inside this process, made of fakeredis, with a clock that can be put forward.

Brokers of one name are one broker. It runs the same scripts as a server does. fakeredis is imported at the first use.
"""

from __future__ import annotations

import importlib
import queue
import threading
from typing import TYPE_CHECKING, Any

import redis
from redis.connection import BlockingConnectionPool, ConnectionPool

from taskstream import connection, display
from taskstream.errors import ConfigError

if TYPE_CHECKING:
    from fakeredis import FakeServer

SCHEME = "memory"

_lock = threading.Lock()
_servers: dict[str, FakeServer] = {}
_ahead_s: dict[int, float] = {}
"""By the identity of a server: how far its clock is ahead of this host's."""


def enable() -> None:
    """From now on ``memory://`` is a broker's URL in this process."""
    connection.add_scheme(SCHEME, _open)


def advance(url: str, seconds: float) -> None:
    """Put the clock of a broker forward. Raises ConfigError for one that is a server."""
    server = _server(url)
    with _lock:
        _ahead_s[id(server)] = _ahead_s.get(id(server), 0.0) + seconds


def forget(url: str) -> None:
    """Let a broker go with all that is in it."""
    with _lock:
        server = _servers.pop(url, None)
        _ahead_s.pop(id(server), None)


def is_memory(url: str) -> bool:
    """Whether it is the URL of such a broker."""
    return url.startswith(f"{SCHEME}://")


def _server(url: str) -> FakeServer:
    if not is_memory(url):
        raise ConfigError(f"the clock of {display.display_url(url)} is a server's: use a memory:// broker for this")
    with _lock:
        found = _servers.get(url)
        if found is None:
            from fakeredis import FakeServer

            found = _servers[url] = FakeServer(version=(7,), server_type="valkey")
        return found


def _open(url: str, common: dict[str, Any]) -> ConnectionPool:
    try:
        kind = _connection_class()
    except ImportError as error:
        raise ConfigError(
            f"a memory:// broker needs fakeredis and lupa ({error}): pip install 'taskstream[testing]'"
        ) from None
    options = {name: value for name, value in common.items() if name != "socket_keepalive"}
    return BlockingConnectionPool(
        timeout=common["socket_timeout"], connection_class=kind, server=_server(url), **options
    )


_classes: list[type[redis.Connection]] = []


def _connection_class() -> type[redis.Connection]:
    """A connection of fakeredis, with a clock that can be put forward and reads that end in time."""
    if _classes:
        return _classes[0]
    importlib.import_module("lupa")  # without it fakeredis has no scripts, and says so only when one is run
    fake: Any = importlib.import_module("fakeredis")
    socket: Any = importlib.import_module("fakeredis._socket")

    class Socket(socket.FakeSocket):  # type: ignore[misc]
        def time(self) -> list[bytes]:
            seconds, micros = super().time()
            total = int(seconds) * 1_000_000 + int(micros) + int(_ahead_s.get(id(self._server), 0.0) * 1_000_000)
            return [str(total // 1_000_000).encode(), str(total % 1_000_000).encode()]

        def _lua_redis_pcall(self, lua_runtime: Any, expected_globals: set[Any], op: bytes, *args: Any) -> Any:
            # fakeredis 2.41 gives scripts an error as an object of Python's, which is no text to Lua.
            try:
                return self._lua_redis_call(lua_runtime, expected_globals, op, *args)
            except Exception as error:
                return lua_runtime.table_from({b"err": str(error).encode()})

    class Connection(fake.FakeRedisConnection):  # type: ignore[misc]
        def _connect(self) -> Socket:
            return Socket(
                self._server,
                client_class=self._client_class,
                db=self.db,
                lua_modules=self._lua_modules,
                client_info=self._client_info,
            )

        def read_response(self, **options: Any) -> Any:
            if self._sock is None:
                raise redis.ConnectionError("the connection is closed")
            try:  # fakeredis itself would wait for ever
                found = self._sock.responses.get(timeout=self.socket_timeout)
            except queue.Empty:
                raise redis.TimeoutError("no answer in time") from None
            if isinstance(found, Exception):
                raise found
            return self._decode(found)

    _classes.append(Connection)
    return Connection
