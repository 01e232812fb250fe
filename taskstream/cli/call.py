"""``taskstream call``: send one call of a task, by the app's code or by its name alone, and wait for its result."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from taskstream.cli.broker_choice import broker_option, choose
from taskstream.cli.numbers import Seconds, Whole
from taskstream.cli.output import json_option, note, print_json, shown
from taskstream.cli.sources import chosen_store, results_option
from taskstream.cli.target import Target
from taskstream.errors import BrokerUnavailable, ConfigError, TaskstreamError, ValidationError

if TYPE_CHECKING:
    from taskstream import AsyncResult, Taskstream
    from taskstream.results.base import Outcome

Function = TypeVar("Function", bound=Callable[..., Any])
DONE, FAILED = 0, 1


class Json(click.ParamType[Any]):
    """A value in JSON of one kind."""

    name = "JSON"

    def __init__(self, kind: type, called: str) -> None:
        self._kind = kind
        self._called = called

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value."""
        if not isinstance(value, str):
            return value
        try:
            found = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self.fail(f"{value!r:.200} is not valid JSON: {error}.", param, ctx)
        if not isinstance(found, self._kind):
            self.fail(f"{value!r:.200} is no {self._called}.", param, ctx)
        return found


class Moment(click.ParamType[Any]):
    """A date and time with an offset; where ``or_seconds``, also a number of seconds."""

    name = "time"

    def __init__(self, *, or_seconds: bool = False) -> None:
        self._or_seconds = or_seconds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        """The time, or the seconds."""
        from taskstream.scalars import Mismatch, read_datetime

        if self._or_seconds:
            with contextlib.suppress(ValueError):
                return float(value)
        try:
            return read_datetime(value)
        except Mismatch:
            also = "a number of seconds or " if self._or_seconds else ""
            self.fail(f"{value!r:.200} is not {also}a date and time such as 2026-07-02T16:30:00Z.", param, ctx)


def option_options(function: Function) -> Function:
    """Adds the options of ``apply_async``, under their names there."""
    for add in reversed(
        (
            click.option("--queue", metavar="NAME", help="The queue, instead of the task's own."),
            click.option("--countdown", type=Seconds(min=0), metavar="S", help="Not before so many seconds from now."),
            click.option("--eta", type=Moment(), metavar="TIME", help="Not before this: 2026-07-02T16:30:00Z."),
            click.option(
                "--expires",
                type=Moment(or_seconds=True),
                metavar="S|TIME",
                help="Not after so many seconds, or a time.",
            ),
            click.option("--priority", type=Whole(0, 9), metavar="0-9", help="0 is first, 5 is usual."),
            click.option("--ordering-key", metavar="TEXT", help="Calls with one key run in the order sent."),
            click.option("--task-id", metavar="ID", help="The message's id; a repeat sends nothing."),
            click.option("--idempotency-key", metavar="TEXT", help="A repeat within 24 h sends nothing."),
            click.option("--headers", type=Json(dict, "object"), metavar="JSON", help="Travel with the message."),
        )
    ):
        function = add(function)
    return function


@click.command()
@click.argument("name", metavar="NAME")
@click.option("-A", "--app", metavar="MODULE:APP", help="The app whose task it is; its code checks the arguments.")
@click.option("--args", type=Json(list, "array"), metavar="JSON", help="Arguments by position: '[\"a.png\", 64]'.")
@click.option("--kwargs", type=Json(dict, "object"), metavar="JSON", help="Arguments by name: '{\"size\": 64}'.")
@option_options
@click.option("--wait", is_flag=True, help="Wait for the result and print the value.")
@click.option("--timeout", type=Seconds(min=0), metavar="S", help="With --wait: at most so many seconds.")
@broker_option
@results_option
@json_option
def call(
    name: str,
    app: str | None,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    wait: bool,
    timeout: float | None,
    broker: str | None,
    results: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Send a call of task NAME and print its id; with --wait, print what it returns, as JSON.

    Without -A the task is known by its name only: --queue has to say where its workers are, which then check the
    arguments. Exit status 1 where the task failed, or had not finished in time; 2 where what was asked cannot be sent.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait: give both, or none")
    given = {option: value for option, value in options.items() if value is not None}
    source = _source(name, app, broker, results, wait, given)
    try:
        handle = _send(source, name, args or [], kwargs or {}, given, by_code=app is not None)
        if not wait:
            later = bool(given.keys() & {"countdown", "eta"})
            _print(as_json, {"id": handle.id, "state": "SCHEDULED" if later else "PENDING"}, handle.id)
            return DONE
        note(f"sent {handle.id}")
        queues = {*source.queues(), *filter(None, [given.get("queue")])}
        outcome = source.outcomes.wait(handle.id, sorted(queues), timeout)
        return _tell(handle.id, outcome, timeout, as_json)
    finally:
        source.close()


def _source(
    name: str, app: str | None, broker: str | None, results: str | None, wait: bool, given: dict[str, Any]
) -> Taskstream:
    """The app that sends. Raises ConfigError where it cannot."""
    from taskstream import Taskstream

    if app is not None:
        from taskstream.app.loading import load_app

        with contextlib.redirect_stdout(sys.stderr):  # what the modules print is none of the output
            source = load_app(app)
        choice = choose(broker, Target(app=app), lambda target: source.broker.url)
        source.override(choice.url, results)
    else:
        queue = given.get("queue")
        if queue is None:
            raise ConfigError(
                f"where is {name}? Name its code with -A MODULE:APP, or its queue with --queue "
                "(its workers check the arguments then)"
            )
        choice = choose(broker, None, lambda target: None)
        source = Taskstream(queue, results=chosen_store(None, None, results)[0] if wait else None)
        source.override(choice.url)
    choice.say()
    if wait and source.results is None:
        raise ConfigError(
            f"app {source.name} keeps no results to wait for: leave --wait out, or name a store with --results"
        )
    return source


def _send(
    source: Taskstream, name: str, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any], *, by_code: bool
) -> AsyncResult[Any]:
    try:
        if not by_code:
            return source.send_task(name, args, kwargs, **options)
        task = source.tasks.get(name) or source.tasks.get(f"{source.name}.{name}")
        if task is None:
            from taskstream.nearest import suggestion

            raise ConfigError(f"app {source.name} has no task {name!r:.200}{suggestion(name, source.tasks)}")
        return task.apply_async(*task.arguments_of(args, kwargs), **options)
    except ValidationError as error:
        raise ConfigError(str(error)) from None
    except BrokerUnavailable as error:
        if error.maybe_sent and not options.keys() & {"task_id", "idempotency_key"}:
            raise TaskstreamError(
                f"{error}; the call may be in its queue (--task-id makes repeating it safe)"
            ) from None
        raise


def _tell(message_id: str, outcome: Outcome | None, timeout: float | None, as_json: bool) -> int:
    from taskstream.results.base import SUCCESS
    from taskstream.results.record import record

    if outcome is None:
        if as_json:
            print_json({"id": message_id, "state": "PENDING"})
        raise TaskstreamError(
            f"no outcome of message {message_id} within {timeout:g} s; it waits or runs: "
            "`taskstream queues` shows what waits, and for which workers"
        )
    _print(as_json, record(outcome), bytes(outcome.value).decode() if outcome.state == SUCCESS else None)
    if outcome.state == SUCCESS:
        return DONE
    error = outcome.error
    why = f": {error.type}: {error.message}" if error is not None else ""
    raise TaskstreamError(shown(f"message {message_id} ended as {outcome.state}{why}"))


def _print(as_json: bool, value: dict[str, object], text: str | None) -> None:
    if as_json:
        print_json(value)
    elif text is not None:
        click.echo(text)
