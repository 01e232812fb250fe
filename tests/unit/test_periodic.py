"""When periodic tasks are due, over changes of the clock, and what a schedule cannot be."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskstream import ConfigError, Taskstream
from taskstream.broker import Envelope
from taskstream.schedule import Every, Times, tick_id, times_of

BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    """Berlin's time, or the one with an offset, as ms since the epoch."""
    found = datetime.fromisoformat(text)
    return round((found if found.tzinfo else found.replace(tzinfo=BERLIN)).timestamp() * 1000)


def told(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(BERLIN).strftime("%d %H:%M%z")


def due(times: Times, start: str, count: int) -> list[str]:
    """The next ``count`` times after ``start``; looking back from each moment has to find the same."""
    at, found = ms(start), []
    for _ in range(count):
        before, at = at, times.next(at)
        assert at > before
        assert times.latest(at) == at
        if found:
            assert times.latest(at - 1) == before
        found.append(told(at))
    return found


def cron(line: str, tz: Any = BERLIN) -> Times:
    return times_of("test", line, None, tz)[0]


def test_a_cron_line_goes_by_its_time_zone() -> None:
    assert due(cron("0 12 * * *"), "2026-01-05T11:59", 2) == ["05 12:00+0100", "06 12:00+0100"]
    assert due(cron("0 12 * * *", None), "2026-01-05T11:59", 2) == ["05 13:00+0100", "06 13:00+0100"]
    assert due(cron("0 12 * * *", "America/New_York"), "2026-01-05T11:59", 1) == ["05 18:00+0100"]
    assert due(cron("*/20 9-10 * * 1-5"), "2026-01-02T10:30", 3) == ["02 10:40+0100", "05 09:00+0100", "05 09:20+0100"]
    assert due(cron("30 0 0 1 1 *"), "2026-06-01T00:00", 1) == ["01 00:00+0100"]


def test_what_the_clock_passes_over_in_spring_is_due_right_after() -> None:
    # At 2:00 on the 29th it is 3:00.
    start = "2026-03-28T03:00"
    assert due(cron("30 2 * * *"), start, 2) == ["29 03:00+0200", "30 02:30+0200"]
    assert due(cron("*/30 * * * *"), "2026-03-29T01:00", 3) == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]


def test_what_comes_twice_in_autumn_is_due_once_unless_the_line_says_every_hour() -> None:
    # At 3:00 on the 25th it is 2:00 again.
    assert due(cron("30 2 * * *"), "2026-10-24T03:00", 2) == ["25 02:30+0200", "26 02:30+0100"]
    assert due(cron("30 * * * *"), "2026-10-25T01:45", 3) == ["25 02:30+0200", "25 02:30+0100", "25 03:30+0100"]


def test_an_interval_is_due_at_its_multiples() -> None:
    times = Every(30.0)
    assert [times.latest(one) for one in (0, 29_999, 30_000, 59_999)] == [0, 0, 30_000, 30_000]
    assert [times.next(one) for one in (0, 29_999, 30_000)] == [30_000, 30_000, 60_000]
    assert times_of("test", None, "1h", None)[0].next(1) == 3_600_000
    assert Every(0.1).next(250) == 300


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({}, "neither is given"),
        ({"cron": "* * * * *", "every": 5}, "both are given"),
        ({"cron": "0 0 30 2 *"}, "cron line '0 0 30 2 *' never fires: no month it names has such a day"),
        ({"cron": "0 0 31 4,6,9,11 *"}, "never fires"),
        ({"cron": "* * * *"}, "'* * * *' is no cron line: Wrong number of fields: give five fields"),
        ({"cron": "61 * * * *"}, "'61 * * * *' is no cron line: Bad minute"),
        ({"cron": "*/0 * * * *"}, "is no cron line"),
        ({"cron": ""}, "is no cron line"),
        ({"cron": 5}, "5 is no cron line: give text"),
        ({"cron": "* * * * *", "tz": "Mars/Phobos"}, "tz='Mars/Phobos' is no time zone this host knows"),
        ({"cron": "* * * * *", "tz": "Europe"}, "tz='Europe' is no time zone"),
        ({"cron": "* * * * *", "tz": "../etc/passwd"}, "is no time zone"),
        ({"cron": "* * * * *", "tz": 1}, "tz=1 is no time zone"),
        ({"every": 5, "tz": "Europe/Berlin"}, "tz='Europe/Berlin' is for a cron line"),
        ({"every": 0}, "every=0 cannot be used"),
        ({"every": 0.01}, "at least 0.1 s"),
        ({"every": "often"}, "every='often' cannot be used"),
        ({"every": True}, "every=True cannot be used"),
        ({"every": 5, "args": [1]}, "too many positional arguments: give what it is called with"),
        ({"every": 5, "args": 1}, "args= is a list or tuple"),
        ({"every": 5, "kwargs": {"other": 1}}, "unexpected keyword argument 'other'"),
    ],
)
def test_what_can_never_be_launched_is_told_at_once(said: dict[str, Any], text: str) -> None:
    app = Taskstream("shop")
    options = dict(said)
    given = (options.pop("cron"),) if "cron" in options else ()
    with pytest.raises(ConfigError) as caught:

        @app.periodic(*given, **options)
        @app.task
        def work() -> None: ...

    assert str(caught.value).startswith("@app.periodic of shop.work: ") and text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_periodic_without_times_is_told_at_once() -> None:
    # Without parentheses the task takes the place of the cron line; a schedule must not be missing silently
    app = Taskstream("shop")

    @app.task
    def work() -> None: ...

    for given, name in ((work, "work"), (len, "len")):
        with pytest.raises(ConfigError, match=rf"@app\.periodic of {name}: say when: @app\.periodic\("):
            app.periodic(given)  # type: ignore[arg-type]


def test_a_task_that_needs_arguments_is_given_them() -> None:
    app = Taskstream("shop")

    def work(what: str, size: int = 1) -> None: ...

    with pytest.raises(ConfigError, match="missing a required argument: 'what'"):
        app.periodic(every=5)(work)
    app = Taskstream("shop")
    app.periodic(every=5, args=["a"], kwargs={"size": 2})(work)
    app.periodic(every=5, args=["b"])(app.tasks["shop.work"])
    app.periodic(every=7, args=["b"])(app.tasks["shop.work"])
    app.periodic(every=7, args=["b"])(app.tasks["shop.work"])
    # Each that says something else is a schedule of its own
    assert len({one.name for one in app.schedules()}) == len(app.schedules()) == 3


def test_arguments_of_the_wrong_type_are_told_when_a_worker_starts() -> None:
    app = Taskstream("shop")

    @app.periodic(every=5, args=[5])
    @app.task
    def work(what: str) -> None: ...

    with pytest.raises(ConfigError, match=r"@app.periodic of shop.work: shop.work: what: "):
        app.schedules()


def test_a_task_of_another_app_is_refused() -> None:
    shop, mill = Taskstream("shop"), Taskstream("mill")

    @shop.task
    def work() -> None: ...

    with pytest.raises(ConfigError, match="it is a task of another app than mill"):
        mill.periodic(every=5)(work)


def test_a_tick_is_one_message_wherever_it_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Envelope] = []

    def app() -> Taskstream:
        made = Taskstream("shop")
        monkeypatch.setattr(made, "send", lambda envelope: str(sent.append(envelope)))

        @made.periodic("0 * * * *", tz="Europe/Berlin")
        @made.task(queue="often")
        def work() -> None: ...

        return made

    # Given the same schedule in two processes
    (first,), (second,) = app().schedules(), app().schedules()
    tick = first.times.latest(1_790_000_000_000)
    # When both launch one tick
    first.launch(tick)
    second.launch(tick)
    # Then it is the same message, published once
    assert (first.queue, first.task, first.name) == (second.queue, "shop.work", second.name)
    assert sent[0] == sent[1] and sent[0].stream == "often"
    assert sent[0].uniques == (f"id:{tick_id(first.name, tick)}",)
    made = uuid.UUID(sent[0].message.id)
    assert made.version == 7 and int.from_bytes(made.bytes[:6], "big") == tick
    assert tick_id(first.name, tick + 1) != sent[0].message.id != tick_id("other", tick)
