"""``taskstream control``: the control channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from taskstream.cli.broker_choice import broker_option, connected
from taskstream.cli.names import resolve
from taskstream.cli.numbers import Seconds
from taskstream.cli.output import json_option, print_json, print_table, shown
from taskstream.cli.target import find_target, target_options
from taskstream.control import STARTED, STOPPED, Control, Reply

DONE, FAILED = 0, 1

timeout_option = click.option(
    "--timeout",
    default=2.0,
    show_default=True,
    metavar="S",
    type=Seconds(0.05, 3600),
    help="Seconds to wait for workers.",
)
worker_option = click.option(
    "--worker", metavar="PATTERN", help="Ask only workers whose name matches, such as 'box1*'."
)


@click.group()
def control() -> None:
    """Stop and start consumption, ask workers."""


def _choose_state(
    name: str, state: str, app: str | None, config_files: str | None, broker: str | None, timeout: float, as_json: bool
) -> int:
    target = find_target(app, config_files)
    with connected(broker, target) as connection:
        channel = Control(connection)
        label, stream, group = resolve(connection, name, target)
        holders = set(channel.holders(stream, group))
        replies = channel.set_state(stream, group, state, timeout)
    obeyed = [reply.worker for reply in replies if reply.ok]
    refused = {reply.worker: reply.error for reply in replies if not reply.ok}
    silent = sorted(holders - {reply.worker for reply in replies})
    if as_json:
        print_json({"event": label, "state": state, "workers": obeyed, "failed": refused, "silent": silent})
    else:
        click.echo(f"{label}: {state}")
        for worker in obeyed:
            click.echo(f"  {shown(worker)} has {state} it")
        for worker, error in refused.items():
            click.echo(f"  {shown(worker)} failed: {shown(error)}")
        for worker in silent:
            click.echo(f"  {shown(worker)} did not answer within {timeout:g} s; it will obey when it can be reached")
        if not (obeyed or refused or silent):
            click.echo("  no live worker consumes it; those that start later obey")
    return FAILED if refused or (silent and not obeyed) else DONE


def _state_command(name: str, state: str, text: str) -> None:
    @control.command(name, help=text, short_help=text.partition(". ")[0] + ".")
    @click.argument("name", metavar="EVENT-or-QUEUE")
    @target_options
    @broker_option
    @timeout_option
    @json_option
    def command(
        name: str, app: str | None, config_files: str | None, broker: str | None, timeout: float, as_json: bool
    ) -> int:
        return _choose_state(name, state, app, config_files, broker, timeout, as_json)


_state_command(
    "start",
    STARTED,
    "Let every worker consume an event or queue. The choice is kept, so workers that start later obey it.",
)
_state_command(
    "stop",
    STOPPED,
    "Have every worker stop consuming an event or queue, finishing what runs. The choice is kept, "
    "so workers that start later obey it.",
)


def _question(command: str, text: str, show: Callable[[list[Reply]], None]) -> None:
    """Make the command that asks workers ``command`` and prints the replies with ``show``."""

    @control.command(command, help=f"{text} Exit status 1 when none answers.", short_help=text)
    @target_options
    @worker_option
    @broker_option
    @timeout_option
    @json_option
    def ask(
        app: str | None,
        config_files: str | None,
        worker: str | None,
        broker: str | None,
        timeout: float,
        as_json: bool,
    ) -> int:
        with connected(broker, find_target(app, config_files)) as connection:
            replies = Control(connection).request(command, worker=worker, timeout=timeout)
        if as_json:
            print_json(replies)
        else:
            show(replies)
        if not replies:
            click.echo("taskstream: no worker answered", err=True)
        return DONE if any(reply.ok for reply in replies) else FAILED


def _show_signs_of_life(replies: list[Reply]) -> None:
    for reply in replies:
        click.echo(f"{shown(reply.worker)} {'answered' if reply.ok else 'failed: ' + shown(reply.error)}")


def _show_counts(replies: list[Reply]) -> None:
    if replies:
        print_table(
            ["WORKER", "STATE", ">RUNNING", ">PROCESSED", ">FAILED", ">RETRIED", "CONSUMES"],
            [_stats_row(reply) for reply in replies],
        )


def _stats_row(reply: Reply) -> list[Any]:
    if not reply.ok:
        return [reply.worker, f"failed: {reply.error}", None, None, None, None, None]
    info = reply.result if isinstance(reply.result, dict) else {}
    held = info.get("subscriptions") or []
    consumes = ", ".join(f"{one.get('label')} {one.get('consumed', 0)} ({one.get('rate', 0.0):.1f}/s)" for one in held)
    counts = [info.get(name) for name in ("state", "running", "processed", "failed", "retried")]
    return [reply.worker, *counts, consumes or None]


_question("ping", "Ask workers for a sign of life.", _show_signs_of_life)
_question("stats", "Ask workers for their counts.", _show_counts)
