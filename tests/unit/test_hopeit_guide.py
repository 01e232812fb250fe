"""docs/from-hopeit.md: what it says ports by its import, and what it calls ours, exists."""

from __future__ import annotations

import pytest
from guides import NOTHING, broken_links, exists, key_exists, names, rows
from helpers import ROOT

TEXT = (ROOT / "docs" / "from-hopeit.md").read_text(encoding="utf-8")
ROWS = rows(TEXT, "| hopeit.engine | here | |")
SAME = "the same"


def test_what_the_guide_calls_ours_exists() -> None:
    # Given every name in the column "here", then it is something one can import, a command, a variable or a key
    found = [name for row in ROWS for name in names(row.here)]
    assert len(found) > 15
    assert [name for name in found if not (exists(name) or key_exists(name))] == []


def test_what_is_the_same_is_a_key_here() -> None:
    same = [name for row in ROWS if row.here == SAME for name in names(row.there) if name != "${NAME}"]
    assert len(same) > 10
    assert [name for name in same if not key_exists(name)] == []


def test_what_is_gone_is_no_key_here() -> None:
    gone = [name for row in ROWS if row.heading == "Configuration" and row.here == NOTHING for name in names(row.there)]
    assert len(gone) > 10
    assert [name for name in gone if key_exists(name)] == []


def test_what_one_turns_to_instead_exists() -> None:
    # Given the last table, then whatever in it begins like ours is there
    instead = TEXT.partition("## What there is not")[2]
    found = [name for name in names(instead) if name.startswith(("taskstream.", "app.", "TASKSTREAM_"))]
    assert len(found) > 4
    assert [name for name in found if not exists(name)] == []


def test_changing_the_import_is_changing_one_word() -> None:
    # Given what ports, then the name here is the one there with another package
    ported = [row for row in ROWS if row.heading.startswith("What ports")]
    assert len(ported) > 5
    for row in ported:
        assert names(row.there)[0].replace("hopeit.", "taskstream.", 1) == names(row.here)[0]


@pytest.mark.parametrize(
    ("name", "there"),
    [
        *(("events.NAME.config.stream.timeout", True), ("streams.connection_str", True), ("throttle_ms", True)),
        *(("events.NAME.config.stream.colour", False), ("target_max_len", False), ("events.NAME.route", False)),
    ],
)
def test_keys_are_looked_up_in_the_schemas(name: str, there: bool) -> None:
    assert key_exists(name) is there


def test_its_links_lead_somewhere() -> None:
    assert broken_links(ROOT / "docs" / "from-hopeit.md") == []
