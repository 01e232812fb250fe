"""``taskstream queues``, ``workers`` and ``result``: looking, changing nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskstream.cli.broker_choice import broker_option, connected
from taskstream.cli.facts import open_results, streams_said_by
from taskstream.cli.output import age, json_option, moment, note, print_json, print_table, shown
from taskstream.cli.target import Target, find_target, target_options
from taskstream.errors import ConfigError, TaskstreamError

if TYPE_CHECKING:
    from taskstream.inspector import GroupView, StreamView, WorkerView
    from taskstream.results.base import Outcome, ResultStore

DONE, FAILED = 0, 1


@click.command()
@target_options
@broker_option
@json_option
def queues(app: str | None, config_files: str | None, broker: str | None, as_json: bool) -> int:
    """Streams, queues and their groups: what waits where.

    WAITING is unread, HELD in the hands of workers, DELAYED waits for its time, DEAD will not be tried again; OLDEST
    is the age of the oldest message that is not done.
    """
    from taskstream.inspector import overview

    target = find_target(app, config_files)
    with connected(broker, target) as connection:
        streams = overview(connection, _streams_of(target)).streams
    if as_json:
        print_json(streams)
        return DONE
    if not streams:
        note("no worker has registered a stream here yet")
        return DONE
    print_table(
        [
            "NAME",
            "STREAM",
            "GROUP",
            "STATE",
            ">LENGTH",
            ">WAITING",
            ">HELD",
            ">DELAYED",
            ">DEAD",
            ">CONSUMERS",
            ">OLDEST",
        ],
        [row for stream in streams for row in _stream_rows(stream)],
    )
    return DONE


@click.command()
@target_options
@broker_option
@json_option
def workers(app: str | None, config_files: str | None, broker: str | None, as_json: bool) -> int:
    """The live worker processes."""
    from taskstream import inspector

    with connected(broker, find_target(app, config_files)) as connection:
        now_ms, found = connection.now_ms(), inspector.workers(connection)
    if as_json:
        print_json(found)
        return DONE
    if not found:
        note("no worker is alive")
        return DONE
    print_table(
        [
            "NAME",
            "HOST",
            ">PID",
            "STATE",
            ">RUNNING",
            ">PROCESSED",
            ">FAILED",
            ">RETRIED",
            ">MEMORY",
            ">UP",
            "CONSUMES",
        ],
        [_worker_row(worker, now_ms) for worker in found],
    )
    return DONE


@click.command()
@click.argument("message_id", metavar="ID")
@target_options
@click.option(
    "--results",
    metavar="URL",
    help="file://FOLDER, json://FOLDER or redis://… "
    "[default: TASKSTREAM_RESULTS, else what -A or --config-files says, else the running `taskstream dev` of this "
    "folder, else the configuration].",
)
@json_option
def result(message_id: str, app: str | None, config_files: str | None, results: str | None, as_json: bool) -> int:
    """What became of a message: its outcome in each group. Exit status 1 if there is none yet."""
    from taskstream.connection import display_url

    store, source = _store(app, config_files, results)
    note(f"results {display_url(store.url)} ({source})")
    try:
        outcomes = store.read(message_id)
    finally:
        store.close()
    if as_json:
        print_json(outcomes)
    else:
        click.echo("\n".join(_outcome_lines(outcome) for outcome in outcomes), nl=bool(outcomes))
    if not outcomes:
        raise TaskstreamError(f"no outcome of {message_id!r} yet: it waits, runs, was swept away, or never was")
    return DONE


def _store(app: str | None, config_files: str | None, option: str | None) -> tuple[ResultStore, str]:
    """The store to look into and who named it. Raises ConfigError."""
    url, source = option, "--results"
    if not url:
        url, source = os.environ.get("TASKSTREAM_RESULTS"), "TASKSTREAM_RESULTS"
    if not url and not app and not config_files:
        from taskstream.embedded import running_broker

        running = running_broker(Path.cwd())
        url, source = running.results if running else None, "the running `taskstream dev` of this folder"
    if url:
        from taskstream.results import open_store

        store = open_store(url, base=Path.cwd())
    else:
        target = find_target(app, config_files)
        if target is None:
            raise ConfigError(
                "no result store: pass --results file://…, name the code with -A or --config-files, "
                "or come to a folder with a running `taskstream dev`"
            )
        store, source = open_results(target), f"said by {target}"
    if store is None:
        raise ConfigError(f"no results are kept ({source})")
    return store, source


def _streams_of(target: Target | None) -> list[str]:
    """The streams of the code, which no worker may have registered yet. Broken code is no reason not to look."""
    try:
        return streams_said_by(target)
    except ConfigError as error:
        note(f"{error}; showing what workers registered")
        return []


def _stream_rows(stream: StreamView) -> list[list[object]]:
    if not stream.groups:
        return [[None, stream.name, None, None, stream.length, *[None] * 6]]
    return [_group_row(stream, group) for group in stream.groups]


def _group_row(stream: StreamView, group: GroupView) -> list[object]:
    counts = [group.waiting, group.held, group.delayed, group.dead, group.consumers]
    return [group.label, stream.name, group.name, group.state, stream.length, *counts, age(group.oldest_age_s)]


def _worker_row(worker: WorkerView, now_ms: int) -> list[object]:
    consumes = ", ".join(
        one.label if one.state == "started" else f"{one.label} ({one.state})" for one in worker.subscriptions
    )
    return [
        worker.name,
        worker.host,
        worker.pid,
        f"{worker.state}: {worker.reason}" if worker.reason else worker.state,
        f"{worker.running}/{worker.concurrency}",
        worker.processed,
        worker.failed,
        worker.retried,
        f"{worker.rss / 2**20:.0f} MiB" if worker.rss else None,
        age(max(0, now_ms - worker.started_ms) / 1000),
        consumes or None,
    ]


def _outcome_lines(outcome: Outcome) -> str:
    rows = [
        ("id", outcome.id),
        ("group", outcome.group),
        ("handler", outcome.handler),
        ("state", outcome.state),
        ("value", bytes(outcome.value).decode() if outcome.error is None else None),
        ("error", f"{outcome.error.type}: {outcome.error.message}" if outcome.error else None),
        ("attempts", outcome.attempts),
        ("sent", moment(outcome.sent_ms)),
        ("started", moment(outcome.started_ms)),
        ("finished", moment(outcome.finished_ms)),
        ("worker", outcome.worker),
        ("request", outcome.request_id),
    ]
    return "".join(f"{name:<10}{shown(value)}\n" for name, value in rows if value is not None).rstrip("\n")
