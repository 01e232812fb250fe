"""One worker pool of the chaos run: `taskstream worker` under one name, in an old or a new release of the code."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import psutil
from helpers import ROOT, Started, taskstream_command

GRACE_S = 10.0
PROCESSES = 2
CONCURRENCY = 50

MODULES = {"old": "chaos_tasks:app", "new": "chaos_tasks_new:app"}
"""The app's code by release."""
QUEUES = {"old": ("chaos", "chaos-poison"), "new": ("chaos", "chaos-next", "chaos-poison")}
"""The queues that each release's tasks name."""


class Pool:
    """To be started again whenever it ended. ``queues`` None: all that its release knows."""

    def __init__(
        self,
        name: str,
        folder: Path,
        env: dict[str, str],
        lease_s: float,
        release: str = "new",
        queues: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.release = release
        self.queues_chosen = queues
        self.runs: list[Started] = []
        self.told_to_stop = False
        self._folder = folder
        self._env = env
        self._lease_s = lease_s
        self.start()

    def start(self) -> None:
        """Start it, anew under the same name, in its present release."""
        self.told_to_stop = False
        options = ["-A", MODULES[self.release], "-n", self.name, "--processes", str(PROCESSES), "-c", str(CONCURRENCY)]
        if self.queues_chosen is not None:
            options += ["-Q", ",".join(self.queues_chosen)]
        limits = ["--lease", str(self._lease_s), "--grace", str(GRACE_S), "-l", "WARNING"]
        output = self._folder / f"{self.name}-{len(self.runs)}.log"
        command = taskstream_command("worker", *options, *limits)
        self.runs.append(Started(command, cwd=self._folder, env=self._env, output=output))

    @property
    def queues(self) -> tuple[str, ...]:
        """What it consumes."""
        return QUEUES[self.release] if self.queues_chosen is None else self.queues_chosen

    @property
    def supervisor(self) -> Started:
        """The run started last."""
        return self.runs[-1]

    def stop(self) -> None:
        """Tell it to stop cleanly."""
        self.told_to_stop = True
        self.supervisor.process.terminate()

    def workers(self) -> list[psutil.Process]:
        """The worker processes of the run started last, the longest-lived first."""
        found = []
        try:
            for process in psutil.Process(self.supervisor.pid).children():
                if "taskstream_worker.child" in process.cmdline():
                    found.append((process.create_time(), process))
        except psutil.NoSuchProcess:
            pass
        return [process for _, process in sorted(found, key=lambda one: (one[0], one[1].pid))]


def older_taskstream(revision: str, folder: Path) -> Path:
    """Put the packages of this repository's commit ``revision`` into ``folder``, to be named in PYTHONPATH."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", revision, "taskstream", "worker", "webapp"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packages:
        packages.extractall(folder, filter="data")
    for name in ("worker", "webapp"):
        (folder / name).rename(folder / f"taskstream_{name}")
    return folder


def with_python_path(env: dict[str, str], folder: Path) -> dict[str, str]:
    """``env`` with ``folder`` first among the places to import from."""
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), env.get("PYTHONPATH"))))}
