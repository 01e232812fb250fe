"""Reads the guides for those who come from elsewhere: tables, diffs, and whether what they call ours exists."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import marshmallow as ma
from helpers import ROOT
from marshmallow.fields import Nested

import taskstream
from taskstream import AsyncResult, Middleware, Signature, Task, Taskstream
from taskstream.app.call_options import SendOptions
from taskstream.app.options import Options
from taskstream.app.request import Request
from taskstream.broker import states
from taskstream.cli.main import cli
from taskstream.config_schemas import AppFile, ServerFile, StreamSection
from taskstream.fields import Table
from taskstream.results.base import FINAL_STATES, RETRY

EXAMPLE = ROOT / "examples" / "from_celery"
NOTHING = "–"

_CODE = re.compile(r"`([^`]+)`")
_CELLS = re.compile(r"(?<!\\)\|")
_FENCE = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Row(NamedTuple):
    """One line of a table, by the heading above it: what is called so elsewhere, what it is here, and a note."""

    heading: str
    there: str
    here: str
    note: str


def rows(text: str, head: str) -> list[Row]:
    """Every row of every table of three columns that begins with the line ``head``."""
    found: list[Row] = []
    heading, inside = "", False
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line == head:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("| ---"):
            cells = [cell.strip() for cell in _CELLS.split(line)[1:-1]]
            found.append(Row(heading, *cells))
    return found


def names(cell: str) -> list[str]:
    """What stands in code in a cell."""
    return _CODE.findall(cell)


def broken_links(page: Path) -> list[str]:
    """Links of a page, within it or to another of ours, that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        if "://" in target or (other.exists() and (not anchor or anchor in _anchors(other))):
            continue
        found.append(target)
    return found


def _anchors(page: Path) -> list[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def diffs(text: str) -> list[str]:
    """The diffs a page shows, without their fences."""
    return _FENCE.findall(text)


def files(folder: Path) -> list[str]:
    """The modules of a project, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))


def real_diff(file: str) -> str:
    """What changed in one file of the example; empty if nothing did."""
    before, after = (
        (EXAMPLE / side / file).read_text(encoding="utf-8").splitlines(keepends=True) for side in ("before", "after")
    )
    return "".join(difflib.unified_diff(before, after, f"before/{file}", f"after/{file}"))


def exists(name: str) -> bool:
    """Whether what a guide calls ours is there. A name in none of the forms below is not."""
    for form, known in _FORMS:
        match = re.fullmatch(form, name)
        if match:
            return match[1] in known()
    if name.startswith("taskstream "):
        return _command_exists(name.split()[1:])
    return name == "task()" or _attribute_exists(name)


def key_exists(name: str) -> bool:
    """Whether ``name`` is a key of config.json or server.json; a bare one may also be one of a STREAM event's."""
    schemas: list[ma.Schema] = [AppFile(), ServerFile()]
    if "." not in name:
        schemas.append(StreamSection())
    return any(_key_exists(schema, name.split(".")) for schema in schemas)


def _key_exists(schema: ma.Schema, path: list[str]) -> bool:
    field = schema.fields.get(path[0])
    rest = path[1:]
    if isinstance(field, Table):
        field, rest = field.value_field, rest[1:]
    if not rest:
        return field is not None
    return isinstance(field, Nested) and _key_exists(field.schema, rest)


def _parameters(function: Callable[..., object]) -> Collection[str]:
    return inspect.signature(function).parameters


def _call_options() -> Collection[str]:
    return {*_parameters(Task.apply_async), *SendOptions.__annotations__}


def _variables() -> Iterator[str]:
    for package in ("taskstream", "webapp", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            yield from re.findall(r"\bTASKSTREAM_[A-Z_]+", path.read_text(encoding="utf-8"))


def _command_exists(words: list[str]) -> bool:
    command: click.Command = cli
    for word in words:
        if word.startswith("-"):
            return any(word in parameter.opts for parameter in command.params)
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is None:
            return False
        command = found
    return True


def _attribute_exists(name: str) -> bool:
    """Of ``taskstream.…``: a module, or what one has."""
    if not re.fullmatch(r"taskstream(\.\w+)+", name):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(importlib.import_module(name))
    except ModuleNotFoundError:
        return False


def _any_task() -> None: ...


_FORMS: tuple[tuple[str, Callable[[], object]], ...] = (
    (r"Taskstream\((\w+)=\)", lambda: _parameters(Taskstream)),
    (r"@app\.task\((\w+)=\)", lambda: Options.__struct_fields__),
    (r"@app\.periodic\((\w+)=\)", lambda: _parameters(Taskstream.periodic)),
    (r"apply_async\((\w+)=\)", _call_options),
    (r"self\.request\.(\w+)", lambda: dir(Request)),
    (r"self\.retry\((\w+)=\)", lambda: _parameters(Task.retry)),
    (r"(?:self|task)\.(\w+)", lambda: dir(Taskstream("any").task(_any_task))),
    (r"app\.(\w+)", lambda: dir(Taskstream)),
    (r"result\.(\w+)", lambda: dir(AsyncResult)),
    (r"results\.(\w+)", lambda: dir(taskstream.GroupResult)),
    (r"signature\.(\w+)", lambda: dir(Signature)),
    (r"Middleware\.(\w+)", lambda: dir(Middleware)),
    (r"(TASKSTREAM_[A-Z_]+)", lambda: set(_variables())),
    (r"([A-Z]+)", lambda: [*dir(states), *FINAL_STATES, RETRY]),
    (r"([A-Z]\w+|chain|group|chord|shared_task)", lambda: taskstream.__all__),
)
