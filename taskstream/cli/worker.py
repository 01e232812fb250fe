"""``taskstream worker``: a worker pool. Its supervisor is this very process, so signals go straight to it."""

from __future__ import annotations

import click

from taskstream.cli.broker_choice import Choice, broker_option, outside
from taskstream.cli.log_options import log_format, log_level_option
from taskstream.cli.numbers import Seconds, Whole
from taskstream.cli.target import need_target, target_options
from taskstream.keys import NAME_PATTERN

NAME_MOST = 100
"""Characters of a name's prefix: numbers follow it."""


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """``a,b`` as a list. Raises click.BadParameter for a list without a name."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("names of queues, separated by commas", ctx, param)
    return names


def _prefix(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Raises click.BadParameter for what can be no prefix of a worker's name."""
    if value is not None and (not NAME_PATTERN.fullmatch(value) or len(value) > NAME_MOST):
        text = f"{value!r} can be no name: use letters, digits and . _ : - (at most {NAME_MOST})"
        raise click.BadParameter(text, ctx, param)
    return value


@click.command()
@target_options
@click.option("-Q", "--queues", callback=_names, metavar="A,B", help="Work off these only [default: all the code has].")
@click.option("--processes", type=Whole(1, 256), help="Worker processes [default: one per CPU].")
@click.option(
    "-c",
    "--concurrency",
    default=100,
    show_default=True,
    type=Whole(1, 10_000),
    help="Messages at a time in one process.",
)
@click.option("-n", "--name", callback=_prefix, help="Prefix of the processes' names [default: made of host and pid].")
@log_level_option
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    metavar="S",
    type=Seconds(0, 86_400),
    help="Seconds that running messages get to finish when the pool stops.",
)
@click.option(
    "--lease",
    default=6.0,
    show_default=True,
    metavar="S",
    type=Seconds(1, 3600),
    help="Seconds without a sign of life after which others take over what a process held.",
)
@click.option(
    "--max-tasks-per-process",
    metavar="N",
    type=Whole(1, 1_000_000_000),
    help="Replace a process once it has run so many messages.",
)
@click.option(
    "--max-memory-per-process",
    metavar="MB",
    type=Whole(1, 100_000_000),
    help="Replace a process once it takes more memory (megabytes, resident).",
)
@broker_option
def worker(
    app: str | None,
    config_files: str | None,
    queues: list[str] | None,
    processes: int | None,
    concurrency: int,
    name: str | None,
    log_level: str | None,
    grace: float,
    lease: float,
    max_tasks_per_process: int | None,
    max_memory_per_process: int | None,
    broker: str | None,
) -> int:
    """A worker pool. SIGTERM or Ctrl-C stops it cleanly within --grace; a second one stops it at once."""
    from taskstream_worker.options import PoolOptions, Target
    from taskstream_worker.supervisor import Supervisor

    target = need_target(app, config_files)
    choice = outside(broker)
    if choice is not None:
        choice.say()
    options = PoolOptions(
        target=Target(app=target.app, config_files=target.config_files),
        queues=queues,
        broker_url=choice.url if choice is not None else None,
        processes=processes,
        concurrency=concurrency,
        name=name,
        log_level=log_level,
        log_format=log_format(),
        grace=grace,
        lease=lease,
        max_tasks_per_process=max_tasks_per_process,
        max_memory_per_process=max_memory_per_process,
    )
    # Its processes load the code anyhow: to find out first what broker it names would double the time of a start.
    by_code = (lambda url: Choice(url, f"said by {target}").tell()) if choice is None else None
    return Supervisor(options, by_code).run()
