"""Watches a chaos run from a thread: memory of every process and of the broker, and when the machine stood still."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable

import redis

from .records import Records, Span

TICK_S = 0.1
STALL_S = 1.0
"""A tick that comes this much later says that nothing on the machine ran."""
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6 if hasattr(os, "sysconf") else 0.0


class Sampler:
    """``processes()`` gives (role, pid) of what lives; each process is sampled every ``every_s``."""

    def __init__(
        self,
        url: str,
        stream: str,
        records: Records,
        processes: Callable[[], Iterable[tuple[str, int]]],
        every_s: float,
    ) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
        self._stream = stream
        self._records = records
        self._processes = processes
        self._every_s = every_s
        self._answered: float | None = None
        self._position: object = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.memory: dict[tuple[str, int], list[tuple[float, float]]] = {}
        """Of each process, by role and pid: (monotonic s, MB)."""
        self.broker: list[tuple[float, float, int]] = []
        """Of the broker: (monotonic s, MB, keys)."""
        self._thread.start()

    def broker_is_back(self) -> None:
        """The broker answers again: look for the first message it hands out."""
        self._position = self._handed_out()
        self._answered = time.monotonic()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(30)
        self._client.close()

    def _run(self) -> None:
        last = time.monotonic()
        due = last
        while not self._ended.wait(TICK_S / 5 if self._answered is not None else TICK_S):
            now = time.monotonic()
            if now - last > TICK_S + STALL_S:
                self._records.stalls.append(Span(last, now))
            self._look_for_work()
            if now >= due:
                due = now + self._every_s
                self._sample(now)
            last = time.monotonic()

    def _look_for_work(self) -> None:
        answered = self._answered
        if answered is None:
            return
        with contextlib.suppress(redis.RedisError, OSError):
            if self._handed_out() != self._position:
                self._records.back.append((answered, time.monotonic()))
                self._answered = None

    def _handed_out(self) -> object:
        """What changes with every message that is read."""
        (group,) = self._client.xinfo_groups(self._stream)
        return group["last-delivered-id"]

    def _sample(self, now: float) -> None:
        for role, pid in self._processes():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{pid}/statm") as file:
                    megabytes = int(file.read().split()[1]) * PAGE_MB
                self.memory.setdefault((role, pid), []).append((now, megabytes))
        with contextlib.suppress(redis.RedisError, OSError):
            used = int(self._client.info("memory")["used_memory"])
            self.broker.append((now, used / 1e6, int(self._client.dbsize())))
