"""Which changes make `taskstream dev` start anew."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest
from helpers import eventually

from taskstream.cli.children import Changed, Events
from taskstream.cli.reload import SourceFilter, watching


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceFilter:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_app").mkdir()
    return SourceFilter(tmp_path, [str(tmp_path / "my_app")], ["server.json", "config.json"])


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("my_app/events.py", True),
        ("common/helpers.py", True),
        ("config.json", True),
        ("server.json", True),
        ("my_app/prices.json", True),
        ("processed_messages/1.json", False),  # what a handler saved
        ("openapi.json", False),
        (".venv/lib/x.py", False),
        ("venv/lib/python3.11/site-packages/x.py", False),
        (".taskstream/x.py", False),
        ("my_app/__pycache__/x.py", False),
        ("my_app/readme.md", False),
        ("../elsewhere.py", False),
    ],
)
def test_what_counts(wanted: SourceFilter, tmp_path: Path, path: str, counts: bool) -> None:
    assert wanted(None, str((tmp_path / path).resolve())) is counts


def test_what_a_one_module_app_saves_beside_itself_does_not_count(tmp_path: Path) -> None:
    wanted = SourceFilter(tmp_path, [str(tmp_path)], [])
    assert wanted(None, str(tmp_path / "tasks.py"))
    assert not wanted(None, str(tmp_path / "saved.json"))


def test_a_change_becomes_an_event(wanted: SourceFilter, tmp_path: Path) -> None:
    events = Events()
    source = tmp_path / "my_app" / "events.py"

    def changed() -> bool:
        # The watcher takes a moment to begin, so keep changing.
        source.write_text(source.read_text() + "#\n" if source.exists() else "")
        (tmp_path / "saved.json").write_text("{}")
        try:
            event = events.get(timeout=0.5)
        except queue.Empty:
            return False
        assert event == Changed((str(source),))
        return True

    with watching(tmp_path, wanted, events):
        eventually(changed)
