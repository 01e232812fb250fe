"""How commands print: JSON for programs, tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
import msgspec

Function = TypeVar("Function", bound=Callable[..., Any])

_ANY_WIDTH = 100_000


def json_option(function: Function) -> Function:
    """Adds ``--json`` (parameter ``as_json``)."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def note(text: str) -> None:
    """One line about what the command does, on stderr, so that it never mixes with its output.

    A line that has no place (stderr is a file on a full disk) is dropped: no worker stops for it.
    """
    with contextlib.suppress(OSError):
        click.echo(f"taskstream: {text}", err=True)


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headings: a drawn table on a terminal, aligned plain lines elsewhere, and on a terminal that is
    too narrow: an id or a name that is broken over lines can be neither read nor copied.

    A column whose heading starts with ``>`` is aligned to the right. None is shown as ``-``.
    """
    right = [column.startswith(">") for column in columns]
    heads = [column.removeprefix(">") for column in columns]
    cells = [[shown(value) for value in row] for row in rows]
    if sys.stdout.isatty() and _draw(heads, right, cells):
        return
    widths = [max(len(row[index]) for row in [heads, *cells]) for index in range(len(heads))]
    _print_lines([heads, *cells], widths, right)


def _print_lines(rows: Iterable[Sequence[str]], widths: Sequence[int], right: Sequence[bool]) -> None:
    for row in rows:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def print_pages(columns: Sequence[str], pages: Iterable[Sequence[Sequence[object]]]) -> bool:
    """Print the rows of pages as they come, under one heading; return whether there were any.

    A single page is printed as ``print_table`` does. Of several, the first says how wide the columns are.
    """
    found = (page for page in pages if page)
    first = next(found, None)
    if first is None:
        return False
    second = next(found, None)
    if second is None:
        print_table(columns, first)
        return True
    cells = [[shown(value) for value in row] for row in first]
    heads = [column.removeprefix(">") for column in columns]
    widths = [max(len(row[index]) for row in [heads, *cells]) for index in range(len(heads))]
    right = [column.startswith(">") for column in columns]
    _print_lines([heads, *cells], widths, right)
    for page in itertools.chain([second], found):
        _print_lines([[shown(value) for value in row] for row in page], widths, right)
    return True


def print_stream(items: Iterable[object]) -> None:
    """Print a JSON array as its items come, one a line."""
    start = "["
    for item in items:
        click.echo(f"{start}\n  {msgspec.json.encode(item).decode()}", nl=False)
        start = ","
    click.echo("\n]" if start == "," else "[]")


def shown(value: object) -> str:
    """``value`` as text for a cell; a line end becomes ``\\n``, other characters that could steer a terminal ``?``."""
    if value is None:
        return "-"
    return "".join(char if char.isprintable() else "\\n" if char == "\n" else "?" for char in str(value))


def age(seconds: float | None) -> str | None:
    """A duration in its largest sensible unit, such as ``3.2s``, ``14m``, ``5h``, ``2d``."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f}s"
    for unit, size, limit in (("m", 60, 60), ("h", 3600, 48)):
        if seconds < size * limit:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def _draw(heads: list[str], right: list[bool], cells: list[list[str]]) -> bool:
    """Draw a table, unless the terminal is too narrow for it; return whether it was drawn."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head, to_right in zip(heads, right, strict=True):
        table.add_column(head, justify="right" if to_right else "left", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if console.measure(table, options=console.options.update(width=_ANY_WIDTH)).maximum > console.width:
        return False
    console.print(table)
    return True
