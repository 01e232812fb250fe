"""An event app for the web tests, written into a folder, and the real server around it."""

from __future__ import annotations

import json
import os
import socket
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from helpers import Started, eventually, free_port

MODEL = """
    from taskstream.dataobjects import dataobject

    @dataobject
    class Reading:
        sensor: str
        value: float
        wait: float = 0.0
"""
TAKE_READING = """
    import time
    from taskstream.app.api import event_api
    from taskstream.app.context import EventContext
    from .model import Reading

    __steps__ = ["check", "rest"]
    __api__ = event_api(payload=(Reading, "what was measured"), responses={200: (Reading, "taken")})

    async def check(reading: Reading, context: EventContext) -> Reading:
        if reading.sensor == "broken":
            raise RuntimeError("internal-secret")
        return reading

    def rest(reading: Reading, context: EventContext) -> Reading:
        time.sleep(reading.wait)
        return reading
"""
KEEP_READING = """
    from taskstream.app.context import EventContext
    from .model import Reading

    __steps__ = ["keep"]

    def keep(reading: Reading, context: EventContext) -> None:
        return None
"""
CONFIG = {
    "app": {"name": "meter", "version": "1.0"},
    "events": {
        "take-reading": {"type": "POST", "write_stream": {"name": "readings"}},
        "keep-reading": {"type": "STREAM", "read_stream": {"name": "readings", "consumer_group": "keepers"}},
    },
}
SERVER = {"logging": {"log_level": "INFO"}}
PATH = "/api/meter/1x0/take-reading"
READING = {"sensor": "north", "value": 1.5}


def write_app(folder: Path) -> Path:
    """Write the app and its configuration into ``folder``; return it."""
    package = folder / "meter"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in (("model", MODEL), ("take_reading", TAKE_READING), ("keep_reading", KEEP_READING)):
        (package / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "server.json").write_text(json.dumps(SERVER), encoding="utf-8")
    return folder


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)


class WebServer:
    """A running server: its process and a way to ask it."""

    def __init__(self, process: Started, port: int) -> None:
        self.process = process
        self.port = port

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 20.0
    ) -> Answer:
        """One request over a connection of its own; ``body`` is sent as JSON unless it is bytes."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            kind = {} if sent is None else {"Content-Type": "application/json"}
            connection.request(method, path, sent, {**kind, **(headers or {})})
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def post(self, body: Any, **headers: str) -> Answer:
        """Send one reading."""
        return self.ask("POST", PATH, body, headers)

    def raw(self, request: bytes, timeout: float = 3.0) -> bytes:
        """Send bytes as they are; return what comes until the server closes or falls silent."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(request)
            try:
                while chunk := connection.recv(65536):
                    received += chunk
                    head, separator, body = received.partition(b"\r\n\r\n")
                    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0].strip()
                    if separator and length and len(body) >= int(length):
                        break
            except OSError:  # a time-out, or a reset after an early answer
                pass
        return received


def answer_of(response: HTTPResponse) -> Answer:
    """A whole answer."""
    return Answer(response.status, dict(response.getheaders()), response.read().decode())


def web_command(**options: Any) -> list[str]:
    """The command line of the server as ``dev`` and ``run`` start it."""
    given = {"config_files": "server.json,config.json", **options}
    return [sys.executable, "-m", "taskstream_webapp", "--options", json.dumps(given)]


def start_server(
    start: Any, folder: Path, broker: str, env: Mapping[str, str] | None = None, **options: Any
) -> WebServer:
    """Start the server in ``folder`` (``start`` makes a process) and wait until all of it answers."""
    port = options.setdefault("port", free_port())
    process = start(web_command(**options), cwd=folder, env={"TASKSTREAM_BROKER": broker, **(env or {})})
    server = WebServer(process, port)
    eventually(lambda: server.ask("GET", "/healthz").status == 200, 60.0, f"no answer:\n{process.output}")
    return server


def started(arguments: list[str], *, cwd: Path, env: Mapping[str, str], output: Path) -> Started:
    """A process with a clean environment, for servers that several tests share."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TASKSTREAM_", "FLASK_"))}
    return Started(arguments, cwd=cwd, env={**clean, **env}, output=output)
