"""``taskstream dead``: looking at the dead letters of a queue or event, requeueing and purging them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskstream.cli.broker_choice import broker_option, connected
from taskstream.cli.letter_text import COLUMNS, brief, complete, row, text_of
from taskstream.cli.names import resolve
from taskstream.cli.numbers import Duration, Whole
from taskstream.cli.output import age, json_option, note, print_json, print_pages, print_stream, shown
from taskstream.cli.progress import progress
from taskstream.cli.target import find_target, target_options
from taskstream.errors import TaskstreamError

if TYPE_CHECKING:
    from taskstream.broker.letters import DeadLetter, Filter, Letters, Verdict

DONE, FAILED = 0, 1
SAID = 20
"""Problems of single letters that get a line of their own; of more only the number is told."""

Function = TypeVar("Function", bound=Callable[..., Any])
Piece = tuple[list["DeadLetter"], list[str], int]
"""Letters, ids that have none, and by how much the progress advances."""

name_argument = click.argument("name", metavar="QUEUE-or-EVENT")
ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1)


def filter_options(function: Function) -> Function:
    """Adds ``--error``, ``--task``, ``--since``, ``--older-than`` and ``--limit``."""
    for option in (
        click.option("--limit", type=Whole(1), metavar="N", help="At most N, those that died first."),
        click.option("--older-than", type=Duration(), metavar="2h", help="Died at least that long ago."),
        click.option("--since", type=Duration(), metavar="2h", help="Died at most that long ago."),
        click.option("--task", metavar="NAME", help="Of this task, event or name."),
        click.option(
            "--error",
            metavar="TYPE",
            help="Died of this exception, by the name of its class, or of WorkerDied, InvalidMessage, UnknownHandler.",
        ),
    ):
        function = option(function)
    return function


def selection_options(function: Function) -> Function:
    """Adds the filters, ``--all`` and ``--dry-run``."""
    dry_run = click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
    everything = click.option("--all", "everything", is_flag=True, help="All of them.")
    return dry_run(everything(filter_options(function)))


@click.group()
def dead() -> None:
    """Dead letters: look at them, requeue or purge them.

    A dead letter is a message that will not be tried again in its group: it failed for good, was no Taskstream message,
    or worker processes died under it.
    """


@dead.command("list")
@name_argument
@filter_options
@target_options
@broker_option
@json_option
def list_(
    name: str, app: str | None, config_files: str | None, broker: str | None, as_json: bool, **filters: Any
) -> int:
    """The dead letters of a queue or event, those that died first on top."""
    wanted = _filter(filters)
    with _letters(name, app, config_files, broker) as (label, letters, now_ms):
        pages = (page.letters for page in letters.find(wanted, now_ms))
        if as_json:
            print_stream(brief(letter) for page in pages for letter in page)
            return DONE
        shown_any = print_pages(COLUMNS, ([row(letter, now_ms) for letter in page] for page in pages))
    if not shown_any:
        note(f"no dead letter of {label}" + (" fits" if any(value is not None for value in filters.values()) else ""))
    return DONE


@dead.command()
@name_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@target_options
@broker_option
@json_option
def show(
    name: str,
    ids: tuple[str, ...],
    app: str | None,
    config_files: str | None,
    broker: str | None,
    as_json: bool,
) -> int:
    """All that is known of dead letters: message, error, earlier deaths. Exit status 1 if there is no such letter."""
    missing: list[str] = []
    found: list[DeadLetter] = []
    with _letters(name, app, config_files, broker) as (label, letters, _):
        for some, none in letters.get(ids):
            found += some
            missing += none
    if as_json:
        print_json([complete(letter) for letter in found])
    else:
        click.echo("\n".join(text_of(letter) for letter in found), nl=bool(found))
    return _tell_missing(label, missing)


@dead.command()
@name_argument
@ids_argument
@selection_options
@click.option("--force", is_flag=True, help="Put what is no message back as well, as it was found in the stream.")
@target_options
@broker_option
def requeue(
    name: str,
    ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    force: bool,
    app: str | None,
    config_files: str | None,
    broker: str | None,
    **filters: Any,
) -> int:
    """Have dead letters tried again in their group, in the order in which they died.

    Each keeps its id and how it died before, and has all its attempts again. No other group of the stream is concerned.
    """
    wanted = _selection(ids, everything, filters)
    with _letters(name, app, config_files, broker) as (label, letters, now_ms):
        work = _Work(label, letters, ids, wanted, now_ms)
        return work.count() if dry_run else work.do("requeue", lambda some: letters.requeue(some, force=force))


@dead.command()
@name_argument
@ids_argument
@selection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
@broker_option
def purge(
    name: str,
    ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    app: str | None,
    config_files: str | None,
    broker: str | None,
    **filters: Any,
) -> int:
    """Delete dead letters for good."""
    wanted = _selection(ids, everything, filters)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to ask on whether to purge: say so with --yes")
    with _letters(name, app, config_files, broker) as (label, letters, now_ms):
        work = _Work(label, letters, ids, wanted, now_ms)
        if dry_run:
            return work.count()
        if not yes:
            status = work.count()
            if not work.fitting:
                return status
            if not click.confirm("Purge them for good?", err=True):
                raise TaskstreamError("nothing was purged")
        return work.do("purge", letters.purge)


@contextmanager
def _letters(
    name: str, app: str | None, config_files: str | None, broker: str | None
) -> Iterator[tuple[str, Letters, int]]:
    """Label and letters of what ``name`` means, and Redis' clock (ms)."""
    from taskstream.broker.letters import Letters

    target = find_target(app, config_files)
    with connected(broker, target) as connection:
        label, stream, group = resolve(connection, name, target)
        yield label, Letters(connection, stream, group), connection.now_ms()


def _filter(filters: dict[str, Any]) -> Filter:
    """Raises click.UsageError for one that nothing can fit."""
    from taskstream.broker.letters import Filter

    since, older_than = filters["since"], filters["older_than"]
    if since is not None and older_than is not None and older_than > since:
        raise click.UsageError(
            f"no letter can have died at most {age(since)} (--since) and at least {age(older_than)} (--older-than) ago"
        )
    return Filter(filters["error"], filters["task"], filters["since"], filters["older_than"], filters["limit"])


def _selection(ids: tuple[str, ...], everything: bool, filters: dict[str, Any]) -> Filter:
    """Raises click.UsageError unless it is ids, or filters, or ``--all``."""
    filtered = any(value is not None for name, value in filters.items() if name != "limit")
    if not (ids or everything or filtered):
        raise click.UsageError("which dead letters? Give ids, a filter such as --error or --older-than, or --all")
    if (bool(ids) + everything + filtered) > 1 or (ids and filters["limit"] is not None):
        raise click.UsageError("ids, filters and --all exclude one another: give one of them")
    return _filter(filters)


class _Work:
    """One command's way through the letters it concerns: those that had died at ``now_ms``, Redis' clock."""

    def __init__(self, label: str, letters: Letters, ids: tuple[str, ...], wanted: Filter, now_ms: int) -> None:
        self._label = label
        self._letters = letters
        self._ids = ids
        self._wanted = wanted
        self._now_ms = now_ms
        self._done = 0
        self._gone = 0
        self._refused = 0
        self._missing: list[str] = []
        self.fitting = 0

    def _pieces(self, doing: str) -> Iterator[Piece]:
        if self._ids:
            total = len(self._ids)
        else:
            total = self._letters.count(self._wanted, self._now_ms)
            if self._wanted.limit is not None and not self._wanted.by_content:
                total = min(total, self._wanted.limit)
        with progress(doing, total) as advance:
            for found, missing, examined in self._pieces_of_ids() if self._ids else self._pieces_that_fit():
                yield found, missing, examined
                advance(examined)

    def _pieces_of_ids(self) -> Iterator[Piece]:
        for found, missing in self._letters.get(self._ids):
            yield found, missing, len(found) + len(missing)

    def _pieces_that_fit(self) -> Iterator[Piece]:
        for page in self._letters.find(self._wanted, self._now_ms):
            yield page.letters, [], page.examined

    def count(self) -> int:
        """Say how many letters it would be."""
        missing: list[str] = []
        for found, none, _ in self._pieces("looking"):
            self.fitting += len(found)
            missing += none
        click.echo(f"{_number(self.fitting)} of {self._label}")
        return _tell_missing(self._label, missing)

    def do(self, verb: str, act: Callable[[list[DeadLetter]], list[Verdict]]) -> int:
        """Do it, piece by piece; say what was done, also where it ends halfway."""
        try:
            for found, missing, _ in self._pieces(f"{verb.removesuffix('e')}ing"):
                self._missing += missing
                self._judge(act(found))
        finally:
            click.echo(f"{verb}d {_number(self._done)} of {self._label}")
            if self._gone:
                note(f"{_number(self._gone)} had been requeued or purged by somebody else meanwhile")
            if self._refused > SAID:
                more = self._refused - SAID
                note(f"{more} more {'were' if more != 1 else 'was'} refused")
        status = _tell_missing(self._label, self._missing)
        return FAILED if self._refused or (self._ids and self._gone) else status

    def _judge(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.done:
                self._done += 1
            elif verdict.problem is None:
                self._gone += 1
            else:
                self._refused += 1
                if self._refused <= SAID:
                    note(shown(verdict.problem))


def _number(count: int) -> str:
    return f"{count} dead letter{'s' * (count != 1)}"


def _tell_missing(label: str, missing: list[str]) -> int:
    for message_id in missing[:SAID]:
        note(f"no dead letter {shown(message_id)!r} of {label}")
    if len(missing) > SAID:
        more = len(missing) - SAID
        note(f"{more} more id{'s have' if more != 1 else ' has'} none")
    return FAILED if missing else DONE
