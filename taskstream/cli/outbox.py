"""``taskstream outbox``: what an app's outbox on this host holds, and sending it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from taskstream.cli.broker_choice import broker_option, choose
from taskstream.cli.facts import broker_said_by
from taskstream.cli.output import age, json_option, note, print_json, print_table
from taskstream.cli.sources import need_folder
from taskstream.cli.target import Target
from taskstream.errors import ConfigError, TaskstreamError
from taskstream.logs import ROOT

if TYPE_CHECKING:
    from taskstream.app.core import Taskstream
    from taskstream.outbox import Outbox

DONE = 0
WAITS = "Outbox waits for the broker: "

app_option = click.option("-A", "--app", metavar="MODULE:APP", required=True, help="The app, such as shop.tasks:app.")


@click.group()
def outbox() -> None:
    """Messages that wait on this host for Redis to take them.

    An app has an outbox where its code says so: Taskstream(…, outbox="file://outbox"). Its processes send what waits by
    themselves, as soon as they can.
    """


@outbox.command("list")
@app_option
@json_option
def list_(app: str, as_json: bool) -> int:
    """How many messages wait, by queue."""
    found, now_ms = _outbox_of(_load(app), app).waiting(), time.time_ns() // 1_000_000
    if as_json:
        print_json(
            [
                {"queue": one.stream, "waiting": one.messages, "oldest_age_s": max(0, now_ms - one.oldest_ms) / 1000}
                for one in found
            ]
        )
    elif not found:
        note("nothing waits")
    else:
        rows = [[one.stream, one.messages, age(max(0, now_ms - one.oldest_ms) / 1000)] for one in found]
        print_table(["QUEUE", ">WAITING", ">OLDEST"], rows)
    return DONE


@outbox.command()
@app_option
@broker_option
def flush(app: str, broker: str | None) -> int:
    """Send what waits, where no process of the app is left to do it. Exit status 1 if something still waits."""
    from taskstream.outbox.flusher import State

    choice = choose(broker, Target(app=app), broker_said_by)
    choice.say()
    loaded = _load(app)
    loaded.override(broker_url=choice.url)
    box = _outbox_of(loaded, app)
    before = sum(one.messages for one in box.waiting())
    with _logged_as_notes():
        state = box.flush()
    left = sum(one.messages for one in box.waiting())
    click.echo(f"sent {max(0, before - left)}, {left} waiting")
    if state is State.ELSEWHERE:
        raise TaskstreamError("a process of the app is sending: nothing to do")
    if left:
        raise TaskstreamError(f"not all could be sent: {box.trouble.removeprefix(WAITS) or 'more came meanwhile'}")
    return DONE


class _Notes(logging.Handler):
    """What sending logs, apart from why something still waits: the command says that in the end."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith("Outbox waits"):
            note(record.getMessage())


@contextmanager
def _logged_as_notes() -> Iterator[None]:
    handler, logger = _Notes(logging.WARNING), logging.getLogger(ROOT)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _load(app: str) -> Taskstream:
    from taskstream.app.loading import load_app

    return load_app(app)


def _outbox_of(loaded: Taskstream, app: str) -> Outbox:
    found = loaded.outbox
    if found is None:
        raise ConfigError(f"{app} has no outbox: give it one with Taskstream(…, outbox='file://outbox')")
    note(f"outbox {found.path}")
    need_folder("outbox", found.path.parent)
    return found
