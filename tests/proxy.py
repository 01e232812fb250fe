"""A TCP proxy before a Redis server that can lose one reply, as a network does at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class LossyProxy:
    """Passes everything on, and cuts a connection instead where a ``lose_…`` asked for it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.lost = 0
        self._lock = threading.Lock()
        self._reply: bytes | None = None
        self._command: bytes | None = None
        self._swallowed: bytes | None = None
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def lose_reply_with(self, content: bytes) -> None:
        """The next reply that contains ``content`` never arrives."""
        with self._lock:
            self._reply = content

    def lose_reply_to(self, command: bytes) -> None:
        """The reply to the next command that contains ``command`` never arrives."""
        with self._lock:
            self._command = command

    def lose_command(self, command: bytes) -> None:
        """The next command that contains ``command`` never arrives."""
        with self._lock:
            self._swallowed = command

    def close(self) -> None:
        """End everything."""
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._sockets += (near, far)
            cut = threading.Event()
            for source, sink, is_reply in ((near, far, False), (far, near, True)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink, is_reply, cut))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_reply: bool, cut: threading.Event) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if self._loses(data, cut) if is_reply else self._swallows(data):
                    self.lost += 1
                    break
                if not is_reply and self._command is not None and self._command in data:
                    with self._lock:
                        self._command = None
                    cut.set()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _swallows(self, data: bytes) -> bool:
        with self._lock:
            if self._swallowed is not None and self._swallowed in data:
                self._swallowed = None
                return True
        return False

    def _loses(self, data: bytes, cut: threading.Event) -> bool:
        with self._lock:
            if self._reply is not None and self._reply in data:
                self._reply = None
                return True
        return cut.is_set()
