"""When a periodic task is due: by a cron line in a time zone, or at fixed intervals. Pure; the time is passed in."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Protocol

from taskstream.durations import EXPECTED, parse_duration
from taskstream.errors import ConfigError

LEAST_EVERY_S = 0.1
"""The shortest interval: every tick is a few commands of each worker."""

_SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)


class Times(Protocol):
    """When something is due. All in ms since the epoch."""

    def latest(self, now_ms: int) -> int:
        """The last time up to ``now_ms``."""

    def next(self, now_ms: int) -> int:
        """The first time after ``now_ms``."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule of one periodic task.

    ``name`` tells it from every other of the same ``queue``; one that says something else has another name.
    ``launch(tick_ms)`` sends the call of one tick, at most once however often it is called within 24 h; it raises
    what ``delay()`` raises.
    """

    name: str
    task: str
    queue: str
    times: Times
    launch: Callable[[int], object]


class Every:
    """At every multiple of ``seconds`` since the epoch, so that all workers mean the same times."""

    def __init__(self, seconds: float) -> None:
        self._ms = max(1, round(seconds * 1000))

    def latest(self, now_ms: int) -> int:
        """See Times."""
        return now_ms - now_ms % self._ms

    def next(self, now_ms: int) -> int:
        """See Times."""
        return self.latest(now_ms) + self._ms


class Cron:
    """A cron line (five fields, or six with seconds first) on the wall clock of a time zone.

    Where the clock is put forward, what is due in the hour that is left out is due right after it; where it is put
    back, a line that names an hour is due once, in the first of the two, and one that says ``*`` for it in both.
    """

    def __init__(self, line: str, zone: tzinfo) -> None:
        self._line = line
        self._zone = zone

    def latest(self, now_ms: int) -> int:
        """See Times."""
        from cronsim import CronSim

        now = self._at(now_ms)
        # Backwards it may pass over what was put off by a change of the clock, so the last steps go forward.
        found = next(CronSim(self._line, now.replace(microsecond=1), reverse=True), None)
        if found is None:
            return 0  # not in the last 50 years
        while (later := next(CronSim(self._line, found))).timestamp() * 1000 <= now_ms:
            found = later
        return round(found.timestamp() * 1000)

    def next(self, now_ms: int) -> int:
        """See Times."""
        from cronsim import CronSim

        now = self._at(now_ms)
        for found in CronSim(self._line, now):
            if found.timestamp() * 1000 > now_ms:
                return round(found.timestamp() * 1000)
        raise AssertionError("checked when it was made")

    def _at(self, now_ms: int) -> datetime:
        return datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(self._zone)


def times_of(where: str, cron: object, every: object, tz: object) -> tuple[Times, str]:
    """What ``@app.periodic`` was told, and the same as text. Raises ConfigError beginning with ``where``."""
    if (cron is None) == (every is None):
        both = "both are given" if cron is not None else "neither is given"
        raise ConfigError(f'{where}: give a cron line such as "*/5 * * * *" or every=30.0: {both}')
    if every is not None:
        if tz is not None:
            raise ConfigError(f"{where}: tz={tz!r} is for a cron line, not for every={every!r}")
        try:
            seconds = parse_duration(every)
        except ValueError:
            seconds = 0.0
        if seconds < LEAST_EVERY_S:
            raise ConfigError(
                f"{where}: every={every!r} cannot be used: give {EXPECTED}, and at least {LEAST_EVERY_S} s"
            )
        return Every(seconds), f"every {seconds:g}"
    zone = _zone(where, tz)
    if not isinstance(cron, str):
        raise ConfigError(f'{where}: {cron!r:.200} is no cron line: give text such as "*/5 * * * *"')
    problem = _problem(cron, zone)
    if problem is not None:
        raise ConfigError(f"{where}: {problem}")
    return Cron(cron, zone), f"{' '.join(cron.split())} {zone}"


def _zone(where: str, tz: object) -> tzinfo:
    if tz is None:
        return UTC
    if isinstance(tz, tzinfo):
        return tz
    import zoneinfo  # every worker loads this module, and few schedules name a zone

    try:
        if not isinstance(tz, str):
            raise ValueError
        return zoneinfo.ZoneInfo(tz)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):  # a folder of them is an OSError
        raise ConfigError(
            f'{where}: tz={tz!r:.200} is no time zone this host knows: give a name such as "Europe/Berlin"'
        ) from None


def _problem(cron: str, zone: tzinfo) -> str | None:
    """What is wrong with a cron line; None if it fires."""
    try:
        if _fires(cron, zone):
            return None
        return f"cron line {cron!r:.200} never fires"
    except Exception as error:
        parts = cron.split()
        if len(parts) in (5, 6):
            parts[-2] = "*"
            try:
                if _fires(" ".join(parts), zone):
                    return f"cron line {cron!r:.200} never fires: no month it names has such a day"
            except Exception:
                error = error.with_traceback(None)
        wanted = "five fields (minute hour day month weekday), or six with seconds first"
        return f"{cron!r:.200} is no cron line: {error}: give {wanted}"


def _fires(cron: str, zone: tzinfo) -> bool:
    from cronsim import CronSim

    return next(iter(CronSim(cron, _SOME_DAY.astimezone(zone))), None) is not None


def schedule_name(task: str, said: str, body: bytes) -> str:
    """What a schedule is called: its task, and a digest of when it is due and what it sends (``body``)."""
    return f"{task}/{hashlib.sha256(said.encode() + bytes(1) + body).hexdigest()[:16]}"


def tick_id(name: str, tick_ms: int) -> str:
    """Id of the message of one tick of a schedule, the same wherever it is made: a UUIDv7 of the tick's time."""
    digest = bytearray(hashlib.sha256(f"{name} {tick_ms}".encode()).digest()[:16])
    digest[:6] = tick_ms.to_bytes(6, "big")
    digest[6] = 0x70 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(digest)))
