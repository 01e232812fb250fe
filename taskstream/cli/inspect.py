"""``taskstream queues``, ``workers`` and ``result``: looking, changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskstream.cli.broker_choice import broker_option, connected
from taskstream.cli.output import age, json_option, note, print_json, print_table, shown
from taskstream.cli.sources import chosen_store, need_folder, results_option, streams_of
from taskstream.cli.target import find_target, target_options
from taskstream.durations import moment
from taskstream.errors import TaskstreamError

if TYPE_CHECKING:
    from taskstream.inspector import GroupView, StreamView, WorkerView
    from taskstream.results.base import Outcome

DONE, FAILED = 0, 1


@click.command()
@target_options
@broker_option
@json_option
def queues(app: str | None, config_files: str | None, broker: str | None, as_json: bool) -> int:
    """Streams, queues and their groups: what waits where.

    WAITING is unread, HELD in the hands of workers, DELAYED waits for its time, DEAD will not be tried again; OLDEST
    is the age of the oldest one that waits or is held. A stream without a group has never been read by a worker.
    """
    from taskstream.inspector import overview

    target = find_target(app, config_files)
    with connected(broker, target) as connection:
        there, complete = connection.streams_there()
        seen = overview(connection, [*streams_of(target), *there])
    streams = seen.streams
    if not complete:
        note("not every key of the server was looked at: there may be more streams that no worker ever read")
    if as_json:
        print_json(streams)
    elif not streams:
        note("no stream is here yet")
    else:
        _print_streams(streams)
    for problem in seen.problems:
        note(shown(problem))
    return FAILED if seen.problems else DONE


def _print_streams(streams: list[StreamView]) -> None:
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
    for worker in found:
        if worker.reason:
            click.echo(f"{shown(worker.name)} {worker.state}: {shown(worker.reason)}")
    return DONE


@click.command()
@click.argument("message_id", metavar="ID")
@target_options
@results_option
@json_option
def result(message_id: str, app: str | None, config_files: str | None, results: str | None, as_json: bool) -> int:
    """What became of a message: its outcome in each group. Exit status 1 if there is none yet."""
    from taskstream.display import display_url
    from taskstream.results.probe import folder_of

    store, source = chosen_store(app, config_files, results)
    note(f"results {display_url(store.url)} ({source})")
    folder = folder_of(store.url)
    if folder is not None:
        need_folder("results", folder)
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


def _stream_rows(stream: StreamView) -> list[list[object]]:
    if stream.problem is not None:
        return [[None, stream.name, None, "broken", *[None] * 7]]
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
        worker.state,
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
