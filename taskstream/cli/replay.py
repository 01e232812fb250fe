"""``taskstream replay``: has an event or queue run again what it has done, as far back as its stream keeps it."""

from __future__ import annotations

import click

from taskstream.cli.broker_choice import broker_option, connected
from taskstream.cli.names import resolve
from taskstream.cli.numbers import Duration
from taskstream.cli.output import age, json_option, note, print_json
from taskstream.cli.progress import progress
from taskstream.cli.target import find_target, target_options

DONE = 0


@click.command()
@click.argument("name", metavar="EVENT-or-QUEUE")
@click.option("--since", type=Duration(), metavar="2h", required=True, help="Sent at most that long ago.")
@click.option("--until", type=Duration(), metavar="1h", help="Sent at least that long ago [default: any].")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@target_options
@broker_option
@json_option
def replay(
    name: str,
    since: float,
    until: float | None,
    dry_run: bool,
    app: str | None,
    config_files: str | None,
    broker: str | None,
    as_json: bool,
) -> int:
    """Run again what EVENT-or-QUEUE has done.

    Only what its stream still has: see `retention`. Each message keeps its id, and its new outcome replaces
    the old one. What waits, runs, is delayed or a dead letter is left alone, and no other group of the stream is
    concerned.
    """
    if until is not None and until >= since:
        raise click.UsageError(
            f"nothing can have been sent at most {age(since)} (--since) and at least {age(until)} (--until) ago"
        )
    from taskstream.broker.replay import Replay

    target = find_target(app, config_files)
    with connected(broker, target) as connection:
        label, stream, group = resolve(connection, name, target)
        now_ms = connection.now_ms()
        around = Replay(
            connection,
            stream,
            group,
            since_ms=now_ms - int(since * 1000),
            until_ms=now_ms - int((until or 0.0) * 1000),
            now_ms=now_ms,
        )
        total = sum(map(len, around.find()))
        if dry_run or not total:
            return _say(label, total, 0, as_json, dry_run)
        replayed = 0
        try:
            with progress("replaying", total) as advance:
                for found in around.find():
                    replayed += sum(around.run(found))
                    advance(len(found))
        finally:
            _say(label, total, replayed, as_json, dry_run)
    return DONE


def _say(label: str, total: int, replayed: int, as_json: bool, dry_run: bool) -> int:
    if as_json:
        print_json({"label": label, "found": total, "replayed": replayed})
        return DONE
    click.echo(f"{_number(total)} of {label}" if dry_run else f"replayed {_number(replayed)} of {label}")
    if not total:
        note("nothing that was done in that time is kept: `retention` says for how long it is")
    return DONE


def _number(count: int) -> str:
    return f"{count} message{'s' * (count != 1)}"
