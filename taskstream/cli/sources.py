"""Where commands that look get to know things from, beside the broker: the code's streams and its result store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskstream.cli.facts import open_results, streams_said_by
from taskstream.cli.output import note
from taskstream.cli.target import Target, find_target
from taskstream.errors import ConfigError

if TYPE_CHECKING:
    from taskstream.results.base import ResultStore

Function = TypeVar("Function", bound=Callable[..., Any])


def results_option(function: Function) -> Function:
    """Adds ``--results``."""
    return click.option(
        "--results",
        metavar="URL",
        help="file://FOLDER, json://FOLDER or redis://… "
        "[default: TASKSTREAM_RESULTS, else what -A or --config-files says, else the running `taskstream dev` of this "
        "folder, else the configuration].",
    )(function)


def chosen_store(app: str | None, config_files: str | None, option: str | None) -> tuple[ResultStore, str]:
    """The store to look into and who named it. Raises ConfigError."""
    url, source = option, "--results"
    if not url:
        url, source = os.environ.get("TASKSTREAM_RESULTS"), "TASKSTREAM_RESULTS"
    if not url and not app and not config_files:
        from taskstream.embedded import running_broker
        from taskstream.results.store import BROKERS_OWN

        running = running_broker(Path.cwd())
        if running is not None:
            url = running.url if running.results == BROKERS_OWN else running.results
            source = "the running `taskstream dev` of this folder"
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


def streams_of(target: Target | None) -> list[str]:
    """The streams of the code, which no worker may have registered yet. Broken code is no reason not to look."""
    try:
        return streams_said_by(target)
    except ConfigError as error:
        note(f"{error}; showing what workers registered")
        return []


def need_folder(what: str, folder: Path) -> None:
    """Raises ConfigError where ``folder`` is none and cannot become one; it need not be there yet."""
    from taskstream.results.probe import existing

    there = existing(folder)
    if os.path.lexists(there) and not there.is_dir():
        raise ConfigError(f"{what} {folder} cannot be a folder, because {there} is none: name another one")
