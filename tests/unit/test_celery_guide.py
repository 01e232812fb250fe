"""docs/from-celery.md says of every name once what it is here, and what it says exists."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from guides import EXAMPLE, NOTHING, Row, broken_links, diffs, exists, files, names, real_diff, rows
from helpers import ROOT

from taskstream import Taskstream
from taskstream.app.options import IN_CELERY
from taskstream.openapi import document

HEAD = "| Celery | here | |"
TEXT = (ROOT / "docs" / "from-celery.md").read_text(encoding="utf-8")
ROWS = rows(TEXT, HEAD)
CHECKED_IN_NOTES = ("@app.task(", "apply_async(", "self.re", "result.", "Middleware.", "taskstream ", "Taskstream(")
"""A note may also name what is Celery's or Python's; what begins like this is ours."""


def test_the_tables_are_read() -> None:
    # Given the guide, when its tables are read, then none was missed
    assert len(ROWS) > 200
    assert TEXT.count(HEAD) == len({row.heading for row in ROWS})
    assert all(len(row) == 4 for row in ROWS)


@pytest.mark.parametrize("heading", sorted({row.heading for row in ROWS}))
def test_no_name_stands_twice_in_a_table(heading: str) -> None:
    # Given one table, then each name of Celery's stands in one row
    found = Counter(name for row in ROWS if row.heading == heading for name in names(row.there))
    assert [name for name, times in found.items() if times > 1] == []


def test_no_setting_stands_twice_in_all_tables_of_settings() -> None:
    settings = TEXT.partition("## Settings")[2].partition("## Commands")[0]
    found = Counter(name for row in rows(settings, HEAD) for name in names(row.there))
    assert len(found) > 200
    assert [name for name, times in found.items() if times > 1] == []


def test_what_the_guide_calls_ours_exists() -> None:
    # Given every name that stands in the column "here", or that a note names as ours, then it exists
    missing = [
        f"{row.heading}: {row.there} -> {name}"
        for row in ROWS
        for name in [*names(row.here), *(name for name in names(row.note) if name.startswith(CHECKED_IN_NOTES))]
        if not exists(name.replace("()", "", 1) if name != "task()" else name)
    ]
    assert missing == []


def test_routes_that_notes_name_are_served() -> None:
    # Given the OpenAPI document of an app with a task, then it has every route of /api/tasks that a note names
    app = Taskstream("any")
    app.task(_some_task)
    paths = document(None, app)["paths"]
    served = {
        f"{method.upper()} {path.replace('any._some_task', '{name}')}"
        for path, operations in paths.items()
        for method in operations
    }
    named = {name for row in ROWS for name in names(row.note) if " /api/tasks" in name}
    assert len(named) > 2
    assert named - served == set()


def _some_task() -> None: ...


def test_the_refusal_of_an_option_says_what_the_guide_says() -> None:
    # Given what a refused option of Celery's is said to be, then the guide says the same
    options = {name: row for row in ROWS if row.heading == "Options of a task" for name in names(row.there)}
    for name, said in IN_CELERY.items():
        ours = said.removesuffix(" here")
        assert (f"@app.task({ours}=)" in options[name].here) if ours != "always so" else options[name].here == NOTHING


def test_every_row_says_something() -> None:
    # Given a row, then it has a name of ours, or says why there is none
    silent = [row for row in ROWS if not (names(row.here) or (row.here == NOTHING and row.note))]
    assert silent == []


ABSENT = """
app.tusk task.later self.request.colour result.maybe results.maybe signature.maybe Taskstream(backend=) Celery IGNORED
@app.task(acks_late=) apply_async(link=) @app.periodic(minute=) TASKSTREAM_NOTHING taskstream.nothing
Middleware.on_monday
"""


@pytest.mark.parametrize("name", [*ABSENT.split(), "taskstream beat", "taskstream worker --beat", "something else"])
def test_what_does_not_exist_is_noticed(name: str) -> None:
    assert not exists(name)


def test_a_row_is_taken_apart() -> None:
    # Given a table with an escaped bar, when it is read, then the bar is no end of a cell
    text = f"## Head\n\n{HEAD}\n| --- | --- | --- |\n| `a`, `b` | `chain` | `x \\| y` |\n\n| other | table |\n"
    assert rows(text, HEAD) == [Row("Head", "`a`, `b`", "`chain`", "`x \\| y`")]


def test_the_guide_shows_the_real_diff_of_every_file() -> None:
    # Given the two projects, then the guide shows what changed in each file, and nothing else
    changed = [diff for file in files(EXAMPLE / "before") if (diff := real_diff(file))]
    assert sorted(diffs(TEXT)) == sorted(changed)
    assert len(changed) == 4


def test_the_example_shows_the_whole_diff() -> None:
    shown = diffs((EXAMPLE / "README.md").read_text(encoding="utf-8"))
    assert shown == ["".join(map(real_diff, files(EXAMPLE / "before")))]


def test_the_two_projects_have_the_same_modules_and_each_is_python() -> None:
    # Given both, then they have the same files, which can be compiled; Celery need not be there
    assert files(EXAMPLE / "before") == files(EXAMPLE / "after")
    for side in ("before", "after"):
        for file in files(EXAMPLE / side):
            ast.parse((EXAMPLE / side / file).read_text(encoding="utf-8"), file)


def test_its_links_lead_somewhere() -> None:
    assert broken_links(ROOT / "docs" / "from-celery.md") == []
