"""Runs command lines for tests, each in a process of its own, without the cost of starting Python for each.

A server process has loaded the command line's modules and forks for every request, so a command starts with the same
clean modules, its own environment, folder and outputs, and ends as any process does. What the packages do not load at
their start is proven elsewhere, by processes that are started in full.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

SERVE = """
import importlib, json, os, sys
from taskstream.cli.main import COMMANDS, main
for entry in COMMANDS.values():
    importlib.import_module(entry.where.partition(":")[0])
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        asked = json.loads(line)
        for number, path in enumerate((os.devnull, asked["out"], asked["err"])):
            file = os.open(path, os.O_RDWR | os.O_CREAT)
            os.dup2(file, number)
            os.close(file)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.exit(main(asked["argv"]))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class CommandServer:
    """A server process, which runs one command at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self, arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str], outputs: Path, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``taskstream`` with ``arguments`` to its end; ``outputs`` is a folder for what it prints.

        Raises subprocess.TimeoutExpired, when it has been killed, if it takes longer than ``timeout`` seconds.
        """
        paths = outputs / "out", outputs / "err"
        asked = {"argv": arguments, "cwd": str(cwd), "env": dict(env), "out": str(paths[0]), "err": str(paths[1])}
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + timeout
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        pid = int(_line(process.stdout, deadline))
        try:
            status = int(_line(process.stdout, deadline))
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.close()
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in paths)
        return subprocess.CompletedProcess(arguments, status, out, err)

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.wait(30)
            process.stdout.close()

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("TASKSTREAM_", "FLASK_"))}
        return subprocess.Popen(
            [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, bufsize=0
        )


def _line(stream: IO[bytes], deadline: float) -> bytes:
    """The next line, read byte by byte so that none is kept back. Raises TimeoutError, EOFError."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        byte = stream.read(1)
        if not byte:
            raise EOFError("the server of command lines has ended")
        line += byte
    return line
