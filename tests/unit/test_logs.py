"""Log lines: their form, that no input breaks it, and that a bad stream never reaches the caller."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream import logs, root_log
from taskstream.errors import ConfigError


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, logs.ROOT, *root_log.WORDY)]
    before = [(one.level, one.propagate, list(one.handlers)) for one in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
    logs.tell_of_runs(lambda: None)


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().split("\n")[:-1]


def test_text_line_has_the_documented_form() -> None:
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)

    logs.FieldLogger("shop", "1.0", "pay").info("Received data", {"extra.length": 10, "track.request_id": "abc"})

    (line,) = lines_of(stream)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| INFO \| shop 1\.0 pay "
        + re.escape(f"{socket.gethostname()} {os.getpid()}")
        + r" \| Received data \| extra\.length=10 \| track\.request_id=abc",
        line,
    )


def test_json_line_has_the_same_fields() -> None:
    stream = io.StringIO()
    logs.configure("INFO", "json", stream)

    logs.FieldLogger("shop", "1.0", "pay").warning("naïve\u2028", {"extra.length": 10, "text": "forged", "x.y": None})

    (line,) = lines_of(stream)
    found = json.loads(line)
    assert found.pop("time")
    assert found == {
        "level": "WARNING",
        "app": "shop",
        "version": "1.0",
        "event": "pay",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "text": "naïve\u2028",
        "extra.length": 10,
        "x.y": None,
    }


@pytest.mark.parametrize("fmt", logs.FORMATS)
@given(
    text=st.text(st.characters(exclude_categories=())),
    key=st.text(st.characters(exclude_categories=()), min_size=1),
    value=st.text(st.characters(exclude_categories=())) | st.floats() | st.integers() | st.binary(),
)
def test_any_input_is_one_line_with_its_own_columns(fmt: str, text: str, key: str, value: object) -> None:
    stream = io.StringIO()
    logs.configure("INFO", fmt, stream)

    logs.FieldLogger("shop", "1.0", "pay").info(text, {f"extra.{key}": value, "track.id": "real"})

    written = stream.getvalue()
    written.encode()  # no lone surrogate is left
    assert len(written.splitlines()) == 1 and written.endswith("\n")
    if fmt == "text":
        columns = written[:-1].split(" | ")
        assert len(columns) == 6
        assert columns[5] == "track.id=real"
        assert re.match(r"extra\.(?:\\=|[^= ])+=", columns[4])
    else:
        assert json.loads(written)["track.id"] == "real"


def test_forged_fields_stay_inside_their_value() -> None:
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)

    logs.FieldLogger("shop", "1.0", "pay").info(
        "x", {"extra.name": "a | track.request_id=evil\n2026 | INFO | \x1b[31m"}
    )

    (line,) = lines_of(stream)
    assert line.endswith(r"extra.name=a \| track.request_id=evil\n2026 \| INFO \| \x1b[31m")


def test_exception_is_in_the_line_with_its_traceback() -> None:
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    try:
        raise KeyError("wrong\nkey")
    except KeyError as error:
        logs.FieldLogger("shop", "1.0", "pay").error("FAILED", {"extra.n": 1}, exc=error)

    (line,) = lines_of(stream)
    assert " | FAILED | extra.n=1 | error.type=KeyError | error.message='wrong" in line
    assert r"error.traceback=Traceback (most recent call last):\n" in line


def test_value_that_cannot_be_shown_costs_nothing_but_itself() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    logs.FieldLogger("shop", "1.0", "pay").info("x", {"extra.a": Broken(), "extra.b": 2})
    (line,) = lines_of(stream)
    assert "extra.a=<Broken that cannot be shown: RuntimeError> | extra.b=2" in line


def test_level_that_is_off_builds_nothing() -> None:
    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError("was rendered")

    stream = io.StringIO()
    logs.configure("WARNING", "text", stream)
    log = logs.FieldLogger("shop", "1.0", "pay")
    log.info("x", {"extra.a": Untouchable()})
    assert stream.getvalue() == ""
    assert not log.enabled(logging.INFO) and log.enabled(logging.WARNING)


def test_broken_stream_never_raises() -> None:
    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "No space left on device")

    logs.configure("INFO", "text", Full())
    logs.FieldLogger("shop", "1.0", "pay").info("x")
    closed = io.StringIO()
    closed.close()
    logs.configure("INFO", "text", closed)
    logs.FieldLogger("shop", "1.0", "pay").info("x")


def test_configuring_again_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("INFO", "text", first)
    logs.configure("debug", "text", second)
    logs.engine_logger("engine").debug("once")
    assert first.getvalue() == ""
    assert len(lines_of(second)) == 1
    assert "| taskstream " in second.getvalue()


def test_record_of_other_code_under_our_logger_is_one_line() -> None:
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    logging.getLogger("taskstream.plugin").info("two\nlines %s", 1)
    (line,) = lines_of(stream)
    assert line.endswith(r"| two\nlines 1 | logger=taskstream.plugin")


@pytest.mark.parametrize(("level", "fmt", "named"), [("LOUD", "text", "LOUD"), ("INFO", "xml", "xml")])
def test_unknown_level_or_format_is_a_config_error(level: str, fmt: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        logs.configure(level, fmt)


def test_handlers_of_the_application_see_every_record() -> None:
    seen: list[logging.LogRecord] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    logging.getLogger("taskstream").addHandler(Other())
    error = ValueError("x")
    logs.FieldLogger("shop", "1.0", "pay").error("FAILED", {"extra.n": 1}, exc=error)
    assert [record.getMessage()[:18] for record in seen] == ["FAILED | extra.n=1"]
    assert seen[0].exc_info is not None and seen[0].exc_info[1] is error
    assert len(lines_of(stream)) == 1


def test_lines_of_many_threads_stay_whole() -> None:
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    log = logs.FieldLogger("shop", "1.0", "pay")
    threads = [
        threading.Thread(target=lambda: [log.info("x", {"extra.n": number}) for number in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(lines_of(stream)) == 800
    assert all(re.search(r"\| x \| extra\.n=\d+$", line) for line in lines_of(stream))


def taken_over(level: str = "INFO", fmt: str = "text") -> io.StringIO:
    """What is written once the root logger is ours; pytest's own handlers are out of the way."""
    logging.getLogger().handlers[:] = []
    stream = io.StringIO()
    assert root_log.take_over(logs.configure(level, fmt, stream))
    return stream


class Hostile:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("fmt", logs.FORMATS)
@given(
    text=st.text(st.characters(exclude_categories=())) | st.none() | st.just(Hostile()),
    arguments=st.lists(st.text() | st.integers() | st.just(Hostile()), max_size=2),
    extra=st.dictionaries(
        st.text(st.characters(exclude_categories=()), min_size=1).filter(lambda key: key not in logs._STANDARD),
        st.text(st.characters(exclude_categories=())) | st.just(Hostile()),
        max_size=2,
    ),
)
def test_any_record_of_any_logger_is_one_line(
    fmt: str, text: object, arguments: list[object], extra: dict[str, object]
) -> None:
    stream = taken_over(fmt=fmt)
    logging.getLogger("some.app").info(text, *arguments, extra=extra)
    (line,) = stream.getvalue().splitlines()
    if fmt == "json":
        assert json.loads(line)["logger"] == "some.app"
    else:
        assert len(re.split(r"(?<!\\) \| ", line)) >= 5


def test_what_a_record_brings_is_in_its_line() -> None:
    # Given what runs, and a record with all that a record can have
    stream = taken_over(fmt="json")
    logs.tell_of_runs(lambda: (logs.Source("shop", "-", "pay"), {"message.id": "m1"}))
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("shop.tasks").exception("a %s", 1, extra={"length": 3}, stack_info=True)
    # Then its line has it
    found = json.loads(stream.getvalue())
    assert (
        found.items()
        >= {
            "level": "ERROR",
            "app": "shop",
            "event": "pay",
            "text": "a 1",
            "extra.length": 3,
            "logger": "shop.tasks",
            "message.id": "m1",
            "error.type": "ValueError",
            "error.message": "x",
        }.items()
    )
    assert "Stack" in found["stack"] and "ValueError" in found["error.traceback"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["urllib3 DEBUG", "urllib3 INFO", "urllib3 WARNING", "app DEBUG", "app INFO", "app WARNING"]),
        ("INFO", ["urllib3 WARNING", "app INFO", "app WARNING"]),
        ("WARNING", ["urllib3 WARNING", "app WARNING"]),
        ("ERROR", []),
    ],
)
def test_libraries_that_talk_a_lot_are_heard_at_debug(level: str, shown: list[str]) -> None:
    stream = taken_over(level)
    for name in ("urllib3.connectionpool", "app.orders"):
        for one in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(one, "%s %s", name.partition(".")[0], logging.getLevelName(one))
    assert [line.split(" | ")[3] for line in lines_of(stream)] == shown


def test_a_level_that_the_application_gave_a_logger_holds() -> None:
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    stream = taken_over()
    logging.getLogger("httpx").debug("asked for")
    assert len(lines_of(stream)) == 1


def test_a_root_logger_with_a_handler_is_left_alone() -> None:
    # Given: an application's own handler, which makes its own level of the root logger
    root, other = logging.getLogger(), logging.NullHandler()
    root.handlers[:] = [other]
    root.setLevel(logging.ERROR)
    # When, Then: nothing changes, also of other loggers
    assert not root_log.take_over(logs.configure("INFO", "text", io.StringIO()))
    assert (root.handlers, root.level) == ([other], logging.ERROR)
    assert logging.getLogger("urllib3").level == logging.NOTSET


def test_taking_over_again_replaces_the_first() -> None:
    first = taken_over()
    second = io.StringIO()
    assert root_log.take_over(logs.configure("WARNING", "text", second))
    logging.getLogger("app").warning("x")
    logging.getLogger("app").info("y")
    assert first.getvalue() == "" and len(lines_of(second)) == 1


def test_loggers_that_a_dictconfig_switched_off_are_on_again() -> None:
    log = logs.FieldLogger("shop", "-", "pay")
    logging.getLogger("taskstream.shop").disabled = True
    stream = io.StringIO()
    logs.configure("INFO", "text", stream)
    log.info("x")
    assert len(lines_of(stream)) == 1
