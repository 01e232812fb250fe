"""What a process launches when: a fake clock, and a fake of what Redis keeps."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.broker import ticks
from taskstream.errors import BrokerUnavailable, QueueFull, Refuse
from taskstream.logs import engine_logger
from taskstream.schedule import Every, Schedule
from taskstream_worker import scheduler as module
from taskstream_worker.scheduler import Scheduler
from taskstream_worker.server_clock import ServerClock


class World:
    """Processes that share Redis; ``now`` is its clock (s), ``sent`` the ticks (s) that were launched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        self.kept: dict[str, int] = {}
        self.sent: list[tuple[str, int]] = []
        self.published: set[tuple[str, int]] = set()
        self.error: Exception | None = None
        self.dies_before_it_says_so = False
        monkeypatch.setattr(module.ticks, "ask", self._ask)
        monkeypatch.setattr(module.ticks, "launched", self._launched)

    def process(self, *every: float) -> Scheduler:
        clock = ServerClock(lambda: self.now)
        clock.learn(int(self.now * 1000))
        return Scheduler([self._schedule(one) for one in every], lambda: None, clock, engine_logger("test"))

    def _schedule(self, every: float) -> Schedule:
        name = f"every {every:g}"

        def launch(tick_ms: int) -> str:
            if self.error is not None:
                raise self.error
            tick = (name, tick_ms // 1000)
            if tick not in self.published:
                self.published.add(tick)
                self.sent.append(tick)
            return "id"

        return Schedule(name, "work", "jobs", Every(every), launch)

    def _ask(self, call: Any, queue: str, schedule: str, tick_ms: int) -> int:
        known = self.kept.setdefault(schedule, tick_ms)
        return ticks.DUE if known < tick_ms else ticks.SETTLED

    def _launched(self, call: Any, queue: str, schedule: str, tick_ms: int) -> None:
        if self.dies_before_it_says_so:
            raise BrokerUnavailable("gone")
        self.kept[schedule] = max(tick_ms, self.kept.get(schedule, 0))

    def ticks(self, name: str) -> list[int]:
        return [tick - 1_000_000 for schedule, tick in self.sent if schedule == name]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_each_tick_is_launched_once_by_five_processes(world: World) -> None:
    processes = [world.process(10, 25) for _ in range(5)]
    for _ in range(60):
        for process in processes:
            assert 0 < process.turn() <= 1.0
        world.now += 1
    # What is due at the first sight was due before anybody knew the schedule.
    assert world.ticks("every 10") == [10, 20, 30, 40, 50] and world.ticks("every 25") == [25, 50]


def test_it_sleeps_until_the_next_is_due(world: World) -> None:
    process = world.process(10)
    world.now += 9.6
    assert process.turn() == pytest.approx(0.4)
    world.now += 0.4
    process.turn()
    assert world.ticks("every 10") == [10]


def test_of_missed_ticks_the_last_one_is_launched(world: World) -> None:
    world.process(10).turn()
    world.now += 57
    # When a process starts after five of them
    process = world.process(10)
    process.turn()
    process.turn()
    assert world.ticks("every 10") == [50]


@pytest.mark.parametrize("error", [BrokerUnavailable("away", maybe_sent=True), QueueFull("full")])
def test_what_cannot_be_sent_is_tried_again(world: World, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    process = world.process(10)
    process.turn()
    world.now += 10
    world.error = error
    for _ in range(3):
        assert process.turn() == 1.0
    world.error = None
    process.turn()
    assert world.ticks("every 10") == [10]
    assert caplog.text.count("Periodic task cannot be launched") == 1


def test_a_tick_that_was_sent_and_not_noted_is_not_sent_again(world: World) -> None:
    process = world.process(10)
    process.turn()
    world.now += 10
    world.dies_before_it_says_so = True
    process.turn()
    world.dies_before_it_says_so = False
    world.process(10).turn()
    assert world.ticks("every 10") == [10] and world.kept["every 10"] == 1_000_010_000


def test_what_a_hook_refuses_is_over(world: World) -> None:
    process = world.process(10)
    process.turn()
    world.now += 10
    world.error = Refuse("not today")
    process.turn()
    world.error = None
    process.turn()
    assert world.ticks("every 10") == []


def test_without_the_servers_time_nothing_is_due(world: World) -> None:
    clock = ServerClock(lambda: world.now)
    process = Scheduler([world._schedule(10)], lambda: None, clock, engine_logger("test"))
    process.turn()
    assert world.kept == {}
