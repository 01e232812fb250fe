"""Whose code a command is about: an app (``-A``) or configuration files. Loads none of it by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from taskstream.errors import ConfigError

DEFAULT_FILES = ("server.json", "config.json")
Function = TypeVar("Function", bound=Callable[..., Any])


class Target(msgspec.Struct, frozen=True):
    """``app`` is ``package.module:app``; ``config_files`` are paths separated by commas. One of the two is set."""

    app: str | None = None
    config_files: str | None = None

    def __str__(self) -> str:
        return self.app or self.config_files or ""


def config_files_option(function: Function) -> Function:
    """Adds ``--config-files``."""
    return click.option(
        "--config-files",
        metavar="FILE,FILE",
        help="Configuration of event apps [default: TASKSTREAM_CONFIG_FILES, else server.json,config.json from here].",
    )(function)


def target_options(function: Function) -> Function:
    """Adds ``-A`` and ``--config-files``."""
    app = click.option("-A", "--app", metavar="MODULE:APP", help="A Taskstream app, such as shop.tasks:app.")
    return app(config_files_option(function))


def find_target(app: str | None, config_files: str | None) -> Target | None:
    """What the options name, else TASKSTREAM_CONFIG_FILES, else the configuration in the working directory, else None.

    Raises click.UsageError where both options are given.
    """
    if app and config_files:
        raise click.UsageError("-A and --config-files exclude one another: give one of them")
    if app:
        return Target(app=app)
    config_files = config_files or os.environ.get("TASKSTREAM_CONFIG_FILES")
    if config_files:
        return Target(config_files=config_files)
    here = [name for name in DEFAULT_FILES if Path(name).is_file()]
    return Target(config_files=",".join(here)) if "config.json" in here else None


def need_target(app: str | None, config_files: str | None) -> Target:
    """As find_target. Raises ConfigError where nothing is named and nothing is here."""
    target = find_target(app, config_files)
    if target is None:
        raise ConfigError(
            f"nothing to run: no config.json in {Path.cwd()}; name the code with --config-files or -A MODULE:APP"
        )
    return target
