"""One run: a peer's variant in a scenario, its environment, its producer and its workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.peers.base import Cell, Peer
from benchmarks.peers.client import MARK
from benchmarks.peers.machine import Server, Workers

DROPPED = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH", "VIRTUAL_ENV", "TASKSTREAM_BROKER")


class Session:
    """Everything of one run is in a folder of its own, which is deleted afterwards, but for the log."""

    def __init__(self, peer: Peer, variant: str, scenario: str, server: Server, home: Path, conc: int = 0) -> None:
        self.peer, self.variant, self.scenario, self.server = peer, variant, scenario, server
        bindir = home / "venvs" / peer.name / "bin"
        self.conc = conc or peer.conc(variant, scenario)
        self._cell = Cell(variant, scenario, str(bindir / "python"), str(bindir), self.conc, server.url)
        logs = home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{peer.name}-{variant}-{scenario}.log"
        self._log.write_bytes(b"")
        self._folder = Path(tempfile.mkdtemp(prefix="run-", dir=home))
        handle, probe = tempfile.mkstemp(prefix="peers-", suffix=".probe", dir="/dev/shm")
        os.close(handle)
        self.probe = Path(probe)
        # Only this package, by a link: with the checkout itself on the path its folders would hide what is installed.
        importable = self._folder / "importable"
        importable.mkdir()
        (importable / "benchmarks").symlink_to(ROOT / "benchmarks")
        work = self._folder / "work"
        work.mkdir()
        kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
        self._environment = {
            **kept,
            "PATH": f"{bindir}:{kept.get('PATH', '')}",
            "PYTHONPATH": str(importable),
            "PEERS_REDIS": server.url,
            "PEERS_REDIS_PORT": str(server.port),
            "PEERS_VARIANT": variant,
            "PEERS_SCENARIO": scenario,
            "PEERS_CONCURRENCY": str(self.conc),
            "PEERS_PROBE": str(self.probe),
            "PEERS_FOLDER": str(work),
        }
        self._work = work
        self._workers: Workers | None = None

    def client(self, op: str, n: int, rate: float = 0, timeout: float = 300) -> dict[str, Any]:
        """Run the producer; return what it says. Raises RuntimeError where it fails or takes too long."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [self._cell.python, "-m", "benchmarks.peers.client", self.peer.name, op, str(n), str(rate)],
                env=self._environment,
                cwd=self._work,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise RuntimeError(f"the producer ran longer than {timeout:g} s") from None
        for line in output.splitlines():
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise RuntimeError(f"the producer failed with {process.returncode}, see {self._log}")

    def start_workers(self) -> Workers:
        """Start them."""
        self._workers = Workers(self.peer.workers(self._cell), self._environment, self._work, self._log)
        return self._workers

    def stop_workers(self) -> None:
        """Stop them, if any run."""
        if self._workers is not None:
            self._workers.stop()
            self._workers = None

    def close(self) -> None:
        """Stop and delete everything of it."""
        self.stop_workers()
        self.probe.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
