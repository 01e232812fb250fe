"""Which broker a command talks to, and why that one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from taskstream.cli.output import note
from taskstream.cli.target import Target
from taskstream.display import display_url
from taskstream.errors import ConfigError

if TYPE_CHECKING:
    from taskstream.broker import Broker

Function = TypeVar("Function", bound=Callable[..., Any])

_PLAIN = re.compile(r"redis://([^@/?#%\s]*@)?[A-Za-z0-9.-]+(:[1-5]?[0-9]{1,4})?(/[0-9]{0,4})?")
"""URLs that can be used for certain: a supervisor need not load the client library (0.25 s of CPU) to see that."""


class Choice(NamedTuple):
    """A broker's URL and where it was said."""

    url: str
    source: str

    def say(self) -> None:
        """Name the broker on stderr, without its password. Raises ConfigError for a URL that cannot be used."""
        if not _PLAIN.fullmatch(self.url):
            from taskstream.connection import PRODUCER, open_pool

            open_pool(self.url, PRODUCER)  # connects to nothing yet
        self.tell()

    def tell(self) -> None:
        """The same for a URL that is known to be usable."""
        note(f"broker {display_url(self.url)} ({self.source})")


def broker_option(function: Function) -> Function:
    """Adds ``--broker``."""
    return click.option(
        "--broker",
        metavar="URL",
        help="redis://, rediss://, unix:// or sentinel:// "
        "[default: TASKSTREAM_BROKER, else the running `taskstream dev` of this folder, else the configuration].",
    )(function)


def explicit(option: str | None) -> Choice | None:
    """``--broker``, else TASKSTREAM_BROKER, else None."""
    if option:
        return Choice(option, "--broker")
    variable = os.environ.get("TASKSTREAM_BROKER")
    return Choice(variable, "TASKSTREAM_BROKER") if variable else None


def outside(option: str | None) -> Choice | None:
    """What goes before anything that code or configuration say: ``explicit``, else the running ``taskstream dev``."""
    choice = explicit(option)
    if choice is None and Path(".taskstream").is_dir():
        from taskstream.embedded import running_broker_url  # only where a `taskstream dev` has been

        running = running_broker_url(Path.cwd())
        choice = Choice(running, "the running `taskstream dev` of this folder") if running else None
    return choice


def choose(option: str | None, target: Target | None, configured: Callable[[Target], str | None]) -> Choice:
    """``--broker``, else TASKSTREAM_BROKER, else the running ``taskstream dev`` of this folder, else what
    ``configured(target)`` says.

    Raises ConfigError where none of them names a broker.
    """
    choice = outside(option)
    if choice is None and target is not None:
        url = configured(target)
        choice = Choice(url, f"said by {target}") if url else None
    if choice is None:
        raise ConfigError(
            "no broker: pass --broker redis://…, set TASKSTREAM_BROKER, name code that says one with -A, or come to a "
            "folder with a running `taskstream dev` or with a configuration that names one"
        )
    return choice


@contextmanager
def connected(option: str | None, target: Target | None) -> Iterator[Broker]:
    """The chosen broker, closed afterwards; says which one it is. Raises ConfigError as ``choose`` does."""
    from taskstream.broker import Broker
    from taskstream.cli.facts import broker_said_by

    choice = choose(option, target, broker_said_by)
    choice.say()
    connection = Broker(choice.url)
    try:
        yield connection
    finally:
        connection.close()
