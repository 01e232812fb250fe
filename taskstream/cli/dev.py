"""``taskstream dev`` and ``taskstream run``: everything on one box under one parent.

The parent loads none of the application's code and handles no message: it starts, watches and stops the others, web
server and worker pool first, the embedded broker last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskstream.cli.box import announce, check_port, page_url, pool_child, watch_over, web_child
from taskstream.cli.broker_choice import Choice, broker_option, choose, explicit
from taskstream.cli.children import Child, Children, Events
from taskstream.cli.facts import Facts, Known, broker_said_by, gather_apart
from taskstream.cli.numbers import Whole
from taskstream.cli.output import note
from taskstream.cli.target import Target, config_files_option, need_target, target_options
from taskstream.cli.web import PORT
from taskstream.errors import BrokerUnavailable, ConfigError, TaskstreamError

if TYPE_CHECKING:
    from taskstream.broker import Broker

LOOPBACK = "127.0.0.1"
DEV_PROCESSES = 2
DEV_GRACE_S = 10.0
"""How long (s) running messages get to finish when ``dev`` stops or reloads."""
RUN_GRACE_S = 30.0

port_option = click.option(
    "--port", default=PORT, show_default=True, type=Whole(1, 65535), help="Port of the web server."
)


@click.command()
@target_options
@broker_option
@port_option
def dev(app: str | None, config_files: str | None, broker: str | None, port: int) -> int:
    """Everything in one, with reload: embedded broker, web server, worker pool.

    Takes server.json and config.json from the working directory unless told otherwise. The broker's data are kept in
    .taskstream/ here. Ctrl-C stops everything.
    """
    target = need_target(app, config_files)
    facts = gather_apart(target)
    check_port(LOOPBACK, port)
    with _dev_broker(broker, facts.results) as choice:
        choice.say()
        processes = min(DEV_PROCESSES, os.cpu_count() or 1)
        web = web_child(target, choice.url, host=LOOPBACK, port=port, processes=1)
        pool = pool_child(target, choice.url, grace=DEV_GRACE_S, processes=processes)
        url = page_url(LOOPBACK, port)
        announce(url, choice.url, facts, "Ctrl-C; changes of the code are taken up by themselves")
        return _reloading(web, pool, target, facts)


def _reloading(web: Child, pool: Child, target: Target, facts: Facts) -> int:
    from taskstream.cli.reload import SourceFilter, watching

    events = Events()
    folder = Path.cwd()
    config_files = target.config_files.split(",") if target.config_files else []
    pool.wanted = bool(facts.subscriptions)

    def take_up(paths: tuple[str, ...], running: bool) -> bool:
        """Whether the changed code can be loaded; what runs goes on otherwise."""
        shown = ", ".join(os.path.relpath(path, folder) for path in paths[:3]) + (", …" if len(paths) > 3 else "")
        try:
            pool.wanted = bool(gather_apart(target, give_up=lambda: events.stop_wanted).subscriptions)
        except TaskstreamError as error:
            if not events.stop_wanted:
                then = (
                    "the code from before goes on until the next change" if running else "waiting for the next change"
                )
                note(f"{' '.join(str(error).split())} (changed: {shown}; {then})")
            return False
        note(f"changed: {shown}; starting web server and workers anew")
        return True

    with watching(folder, SourceFilter(folder, facts.packages, config_files), events):
        return watch_over(Children([web, pool], events, note), events, DEV_GRACE_S, take_up)


@contextmanager
def _dev_broker(option: str | None, results: str | None) -> Iterator[Choice]:
    """The broker somebody named, else an embedded one that ends with the block and tells where ``results`` are."""
    named = explicit(option)
    if named is not None:
        yield named
        return
    from taskstream.display import display_url
    from taskstream.embedded import EmbeddedBroker

    # What is told stands in a file, where no password belongs.
    told = results if results and display_url(results) == results else None
    with EmbeddedBroker(Path.cwd(), results=told) as embedded:
        yield Choice(embedded.url, "embedded, data in .taskstream/")


@click.command()
@click.option("--start-streams", is_flag=True, help="Consume STREAM events from the start.")
@config_files_option
@click.option(
    "--api-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="OpenAPI document that has to agree with the code.",
)
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on.")
@port_option
@click.option("--insecure", is_flag=True, help="Listen beyond loopback although TASKSTREAM_AUTH_TOKEN is not set.")
@broker_option
def run(
    start_streams: bool,
    config_files: str | None,
    api_file: Path | None,
    host: str,
    port: int,
    insecure: bool,
    broker: str | None,
) -> int:
    """Web server and worker pool for one box, without reload.

    Without --start-streams, STREAM events wait until `taskstream control start EVENT`. What was chosen through the
    control channel before wins over the flag. SIGTERM or Ctrl-C stops both.
    """
    target = need_target(None, config_files)
    facts = gather_apart(target, None if api_file is None else str(api_file))
    if facts.differences:
        lines = "; ".join(facts.differences)
        raise ConfigError(f"{api_file} differs from the code, so nothing was started: {lines}")
    check_port(host, port, insecure)
    choice = choose(broker, target, broker_said_by)
    choice.say()
    web = web_child(target, choice.url, host=host, port=port, insecure=insecure)
    pool = pool_child(target, choice.url, grace=RUN_GRACE_S, auto_start=start_streams)
    pool.wanted = bool(facts.subscriptions)
    announce(page_url(host, port), choice.url, facts, "Ctrl-C or SIGTERM")
    _say_choices(choice.url, facts.subscriptions, start_streams)
    events = Events()
    return watch_over(Children([web, pool], events, note), events, RUN_GRACE_S)


def _say_choices(url: str, subscriptions: list[Known], start_streams: bool) -> None:
    """Which start/stop choice holds for each STREAM event, and how to change it."""
    from taskstream.broker import Broker

    broker = Broker(url)
    try:
        for one in subscriptions:
            click.echo(f"  {_choice_line(broker, one, start_streams)}")
    except BrokerUnavailable as error:
        note(f"{error}; web server and workers keep trying, start/stop choices hold once it is there")
    finally:
        broker.close()


def _choice_line(broker: Broker, one: Known, start_streams: bool) -> str:
    chosen = broker.state(one.stream, one.group)
    flag = "--start-streams" if start_streams else "no --start-streams"
    if chosen is None:
        state, why = ("started" if start_streams else "waits"), flag
    else:
        state, why = chosen, f"chosen before, wins over {flag}"
    other = "stop" if state == "started" else "start"
    return f"{one.name} {state} ({why}); to change: taskstream control {other} {one.name}"
