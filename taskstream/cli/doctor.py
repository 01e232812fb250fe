"""``taskstream doctor``: what is wrong, or will be, with the broker and the result store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from taskstream.cli.broker_choice import broker_option, connected
from taskstream.cli.output import json_option, note, print_json, shown
from taskstream.cli.sources import chosen_store, results_option, streams_of
from taskstream.cli.target import find_target, target_options
from taskstream.errors import ConfigError

if TYPE_CHECKING:
    from taskstream.doctor import Finding

DONE, FAILED = 0, 1

LIMIT_S = 20.0
"""What looking at the broker, and at the results, may take."""


@click.command()
@target_options
@broker_option
@results_option
@json_option
def doctor(app: str | None, config_files: str | None, broker: str | None, results: str | None, as_json: bool) -> int:
    """Look broker and result store over for what will hurt, and say what to do about it.

    It changes nothing. Exit status 0 without a problem, 1 with one; notes are no problems.
    """
    from taskstream.doctor import PROBLEM, examine_broker, within

    target = find_target(app, config_files)
    if results or os.environ.get("TASKSTREAM_RESULTS", "null") not in ("", "null"):
        chosen_store(app, config_files, results)[0].close()  # what was asked for and is none is bad usage, no finding
    found: list[Finding] = []

    def tell(findings: Iterator[Finding]) -> None:
        for one in findings:
            found.append(one)
            if not as_json:
                remedy = f" → {one.remedy}" if one.remedy else ""
                click.echo(f"{one.level.upper():<8}{shown(one.about)}: {shown(one.text)}{shown(remedy)}")

    with connected(broker, target) as connection:
        tell(within(LIMIT_S, "broker", examine_broker(connection, streams_of(target))))
    tell(within(LIMIT_S, "results", _results(app, config_files, results)))
    if as_json:
        print_json(found)
    problems = sum(one.level == PROBLEM for one in found)
    note(f"{problems} problem{'s' * (problems != 1)}" if problems else "no problem")
    return FAILED if problems else DONE


def _results(app: str | None, config_files: str | None, results: str | None) -> Iterator[Finding]:
    from taskstream.display import display_url
    from taskstream.doctor import NOTE, Finding, examine_results

    try:
        store, source = chosen_store(app, config_files, results)
    except ConfigError as error:
        yield Finding(NOTE, "results", f"not looked at: {error}")
        return
    note(f"results {display_url(store.url)} ({source})")
    try:
        yield from examine_results(store)
    finally:
        store.close()
