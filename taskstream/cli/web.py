"""``taskstream web``: the Flask app on a production WSGI server."""

from __future__ import annotations

import click

from taskstream.cli.broker_choice import broker_option, choose
from taskstream.cli.facts import broker_said_by
from taskstream.cli.log_options import log_format, log_level_option
from taskstream.cli.numbers import Whole
from taskstream.cli.target import need_target, target_options

PORT = 8020


@click.command()
@target_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=Whole(1, 65535), help="Port to listen on.")
@click.option("--processes", default=2, show_default=True, type=Whole(1, 256), help="Server processes.")
@click.option("--threads", default=16, show_default=True, type=Whole(1, 1024), help="Threads in each process.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback although TASKSTREAM_AUTH_TOKEN is not set.")
@broker_option
@log_level_option
def web(
    app: str | None,
    config_files: str | None,
    host: str,
    port: int,
    processes: int,
    threads: int,
    insecure: bool,
    broker: str | None,
    log_level: str | None,
) -> int:
    """The Flask app on a production WSGI server. SIGTERM or Ctrl-C stops it."""
    from taskstream_webapp.server import ServeOptions, serve

    target = need_target(app, config_files)
    choice = choose(broker, target, broker_said_by)
    choice.say()
    return serve(
        ServeOptions(
            config_files=target.config_files,
            app=target.app,
            host=host,
            port=port,
            processes=processes,
            threads=threads,
            insecure=insecure,
            broker_url=choice.url,
            log_level=log_level,
            log_format=log_format(),
        )
    )
