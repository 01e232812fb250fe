"""Launches periodic tasks when they are due by Redis' clock. Every process of a pool does; each tick is launched once.

Which ticks were launched is in Redis, and the message of a tick has an id made of the tick, so that whoever dies or
loses an answer in between, the next one goes on where that was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gevent

from taskstream.broker import ticks
from taskstream.errors import BrokerUnavailable, Refuse, TaskstreamError, ValidationError
from taskstream.logs import FieldLogger
from taskstream.schedule import Schedule

from .server_clock import ServerClock

MOST_S = 1.0
"""How long at most it sleeps: the server's clock may be set, and what could not be launched is tried again."""

LEAST_S = 0.01


class Scheduler:
    """The schedules of one process. ``call`` sends one command, raising BrokerUnavailable or ConfigError."""

    def __init__(
        self, schedules: Sequence[Schedule], call: Callable[..., object], clock: ServerClock, log: FieldLogger
    ) -> None:
        self._schedules = schedules
        self._call = call
        self._clock = clock
        self._log = log
        self._settled: dict[str, int] = {}
        """By schedule: the tick up to which there is nothing to do (ms since the epoch)."""
        self._failing: set[str] = set()

    def start(self) -> None:
        """Start the greenlet, if there is anything to do; it ends with the process."""
        if self._schedules:
            gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            gevent.sleep(self.turn())

    def turn(self) -> float:
        """Launch what is due; return how long to sleep (s)."""
        if not self._clock.known:
            return LEAST_S
        waits = [self._serve(schedule) for schedule in self._schedules]
        return max(LEAST_S, min(MOST_S, *waits))

    def _serve(self, schedule: Schedule) -> float:
        """One schedule; return how long it has time (s)."""
        now = self._clock.now_ms()
        tick = schedule.times.latest(now)
        if self._settled.get(schedule.name) != tick:
            if not self._launch(schedule, tick):
                return MOST_S
            self._settled[schedule.name] = tick
        return (schedule.times.next(now) - now) / 1000

    def _launch(self, schedule: Schedule, tick: int) -> bool:
        """Whether this tick is settled: launched here or elsewhere, or not to be."""
        try:
            answer = ticks.ask(self._call, schedule.queue, schedule.name, tick)
            if answer == ticks.EARLY:
                return False
            if answer == ticks.DUE:
                self._send(schedule, tick)
                ticks.launched(self._call, schedule.queue, schedule.name, tick)
        except TaskstreamError as error:
            if schedule.name not in self._failing:
                self._failing.add(schedule.name)
                say = self._log.warning if isinstance(error, BrokerUnavailable) else self._log.error
                say("Periodic task cannot be launched, trying on", {"task": schedule.task, "error": error})
            return False
        self._failing.discard(schedule.name)
        return True

    def _send(self, schedule: Schedule, tick: int) -> None:
        """Raises what another try may mend."""
        said = {"task": schedule.task, "tick": tick}
        try:
            self._log.debug("Periodic task launched", {**said, "message.id": schedule.launch(tick)})
        except (Refuse, ValidationError) as error:
            self._log.warning("Periodic task refused", {**said, "error": error})
