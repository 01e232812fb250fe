"""Log level and format of the commands that write logs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from taskstream.errors import ConfigError
from taskstream.logs import FORMATS, LEVELS

Function = TypeVar("Function", bound=Callable[..., Any])


def log_level_option(function: Function) -> Function:
    """Adds ``--log-level``; None leaves it to the configuration."""
    return click.option(
        "-l",
        "--log-level",
        type=click.Choice(LEVELS, case_sensitive=False),
        envvar="TASKSTREAM_LOG_LEVEL",
        show_envvar=True,
        help="Least level of log lines [default: the configuration's, else INFO].",
    )(function)


def log_level() -> str | None:
    """TASKSTREAM_LOG_LEVEL; None leaves it to the configuration."""
    return os.environ.get("TASKSTREAM_LOG_LEVEL") or None


def log_format() -> str | None:
    """TASKSTREAM_LOG_FORMAT; None leaves it to the configuration."""
    return os.environ.get("TASKSTREAM_LOG_FORMAT") or None


def check_log_variables() -> None:
    """Raises ConfigError for what neither variable may be; every command looks, whether it logs or not."""
    level, text_format = log_level(), log_format()
    if level is not None and level.upper() not in LEVELS:
        raise ConfigError(f"TASKSTREAM_LOG_LEVEL {level!r} is no level: use {', '.join(LEVELS)}")
    if text_format is not None and text_format not in FORMATS:
        raise ConfigError(f"TASKSTREAM_LOG_FORMAT {text_format!r} is no format: use {' or '.join(FORMATS)}")
