"""A whole system on one box, `taskstream run` around an event app with a server of its own, and how to drive it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
import redis
from helpers import OwnServer, Started, eventually, free_port, taskstream_command
from web_app import Answer, WebServer, started

from taskstream import keys
from taskstream.results import Outcome, ResultStore, open_store

APPS = Path(__file__).parent / "acceptance"
START_S = 90.0
"""Bound for a start on a busy machine."""


def patience(seconds: float) -> float:
    """A bound of ``seconds`` on a quiet machine, longer where more wants to run than there are processors."""
    return seconds * max(2.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


class Effect(NamedTuple):
    """One line that the app of ``jobs_app`` left. ``at`` is wall-clock time (s)."""

    step: str
    job: str
    attempt: int
    pid: int
    at: float


class Box:
    """One folder with an event app, and `taskstream run` in it, which may be started several times."""

    def __init__(self, source: str, folder: Path, server: OwnServer, env: Mapping[str, str] | None = None) -> None:
        """``source``: the name of an app's folder beside the acceptance tests, or a path."""
        self.folder = folder
        self.server = server
        self.port = free_port()
        self.env = {"TASKSTREAM_BROKER": server.url, **(env or {})}
        self._runs: list[Started] = []
        self._main: Started | None = None
        shutil.copytree(APPS / source, folder, ignore=shutil.ignore_patterns("__pycache__"))

    # -- processes ---------------------------------------------------------------------------------------

    def start(self, *arguments: str, ready: bool = True) -> None:
        """`taskstream run --start-streams …`; ``ready`` waits until web server and workers are there."""
        command = ["run", "--start-streams", "--config-files=server.json,config.json", "--port", str(self.port)]
        self._main = self.launch(*command, *arguments)
        if ready:
            eventually(self._all_there, START_S, lambda: self.output)

    def launch(self, *arguments: str) -> Started:
        """Any command of `taskstream` in this folder, in the background."""
        output = self.folder.parent / f"{self.folder.name}-{len(self._runs)}.log"
        run = started(taskstream_command(*arguments), cwd=self.folder, env=self.env, output=output)
        self._runs.append(run)
        return run

    def _all_there(self) -> bool:
        assert self.main.process.poll() is None, self.output
        return self.ask("GET", "/readyz").status == 200 and len(self.consumer_names()) >= len(self.workers()) > 0

    @property
    def main(self) -> Started:
        """The running `taskstream run`."""
        assert self._main is not None
        return self._main

    @property
    def output(self) -> str:
        """What all of them have printed so far."""
        return "".join(run.output for run in self._runs)

    def stop(self, run: Started | None = None) -> float:
        """SIGTERM to ``run`` (default: `taskstream run`); seconds until it and its family were gone, cleanly."""
        run = run or self.main
        begun = time.monotonic()
        run.send(signal.SIGTERM)
        status = run.wait(60)
        took = time.monotonic() - begun
        assert status == 0, run.output
        assert run.family() == []
        return took

    def remove(self) -> None:
        """Kill whatever is left."""
        for run in self._runs:
            run.remove()

    def processes(self, word: str) -> list[psutil.Process]:
        """The processes here that have ``word`` among the arguments they were started with."""
        found = []
        for run in self._runs:
            for process in run.family():
                try:
                    if word in process.cmdline():
                        found.append(process)
                except psutil.NoSuchProcess:
                    continue
        return found

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return self.processes("taskstream_worker.child")

    # -- HTTP --------------------------------------------------------------------------------------------

    @property
    def web(self) -> WebServer:
        """The running web server."""
        return WebServer(self.main, self.port)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Answer:
        """One request."""
        return self.web.ask(method, path, body, headers, timeout)

    def submit(self, job: str, kind: str = "quick", event: str = "submit", **more: object) -> Answer:
        """POST one job to the app of ``jobs_app``."""
        return self.ask("POST", f"/api/jobs/1x0/{event}", {"job": job, "kind": kind, **more})

    def submit_all(self, jobs: Sequence[str], kind: str = "quick", **more: object) -> None:
        """POST many, all of which have to be accepted."""
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda job: self.submit(job, kind, **more), jobs))
        assert Counter(answer.status for answer in answers) == {200: len(jobs)}

    def manage(self, action: str, event: str = "work") -> Answer:
        """Start or stop an event of ``jobs_app``."""
        return self.ask("POST", f"/mgmt/jobs/1x0/{event}/{action}")

    # -- what became of it -------------------------------------------------------------------------------

    def lines(self, text: str) -> list[str]:
        """The log's lines that hold ``text``."""
        return [line for line in self.output.splitlines() if text in line]

    def effects(self, job: str | None = None, step: str | None = None) -> list[Effect]:
        """The lines the handlers left, of one job or all."""
        path = self.folder / "effects.log"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        found = [Effect(row[0], row[1], int(row[2]), int(row[3]), float(row[4])) for row in rows]
        return [one for one in found if job in (None, one.job) and step in (None, one.step)]

    def done(self) -> Counter[str]:
        """How often each job was done to its end."""
        return Counter(one.job for one in self.effects(step="end"))

    def wait_done(self, jobs: Sequence[str], seconds: float = 20.0) -> None:
        """Return when all ``jobs`` are done."""

        def missing() -> str:
            left = sorted(set(jobs) - set(self.done()))
            return f"{len(left)} of {len(jobs)} not done: {left[:5]}\n{self.output[-4000:]}"

        eventually(lambda: not set(jobs) - set(self.done()), patience(seconds), missing)

    def results(self) -> ResultStore:
        """The result store in the folder."""
        store = open_store("file://results", base=self.folder)
        assert store is not None
        return store

    def outcome(self, request_id: str, event: str = "work") -> Outcome | None:
        """The final outcome of what a request caused, None while there is none."""
        for line in self.lines(f"track.request_id={request_id}"):
            if f" {event} " in line and "message.id=" in line:
                message_id = line.partition("message.id=")[2].split()[0]
                store = self.results()
                try:
                    found = [one for one in store.read(message_id) if one.state in ("SUCCESS", "FAILURE")]
                finally:
                    store.close()
                return found[0] if found else None
        return None

    # -- Redis -------------------------------------------------------------------------------------------

    def redis(self) -> redis.Redis:
        """A client; close it (``with``)."""
        return redis.Redis.from_url(self.server.url)

    def consumer_names(self, stream: str = "jobs", group: str = "workers") -> list[str]:
        """The consumers of a group, none where there is no group."""
        with self.redis() as client:
            try:
                return [row["name"].decode() for row in client.xinfo_consumers(stream, group)]
            except redis.ResponseError:
                return []

    def letters(self, stream: str = "jobs", group: str = "workers") -> dict[str, dict[str, object]]:
        """Dead letters by message id."""
        with self.redis() as client:
            return {key.decode(): json.loads(text) for key, text in client.hgetall(keys.letters(stream, group)).items()}

    def at_rest(self, stream: str = "jobs", group: str = "workers") -> bool:
        """Whether nothing of a group waits, is held or is delayed, and no finished entry is kept."""
        with self.redis() as client:
            again = keys.again(stream, group)
            pending = [client.xpending(key, group)["pending"] for key in (stream, again) if client.exists(key)]
            return (
                not any(pending)
                and client.xlen(stream) == client.xlen(again) == 0
                and client.zcard(keys.delayed(stream, group)) == 0
            )
