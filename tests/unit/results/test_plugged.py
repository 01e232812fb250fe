"""Stores that are not Taskstream's own: given to an app as an object, or brought by a package's entry point."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from outcomes import NOW_MS, outcome

from taskstream import Taskstream
from taskstream.cli.facts import gather
from taskstream.cli.target import Target
from taskstream.errors import ConfigError, ResultUnavailable
from taskstream.message import new_id
from taskstream.results import Outcome, ResultStoreError, open_store, plugged
from taskstream.results.base import ResultStore


class Shelf:
    """The smallest store there can be."""

    def __init__(self, url: str = "shelf://here", **settings: Any) -> None:
        self.url = url
        self.settings = settings
        self.records: dict[tuple[str, str], Outcome] = {}
        self.closed = 0

    def write(self, outcomes: Sequence[Outcome]) -> None:
        for one in outcomes:
            known = self.records.get((one.id, one.group))
            if known is None or known.delivery <= one.delivery:
                self.records[one.id, one.group] = one

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        return [one for one in self.records.values() if one.id == message_id and group in (None, one.group)]

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        return 0

    def close(self) -> None:
        self.closed += 1


class Broken(Shelf):
    """Fails in its own way, as a foreign client library does."""

    def write(self, *arguments: Any) -> None:
        raise KeyError("bucket")

    read = sweep = write  # type: ignore[assignment]


def registered(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """As if a package had brought ``value`` for ``shelf://``."""
    point = EntryPoint("shelf", value, plugged.ENTRY_POINTS)
    monkeypatch.setattr(
        plugged,
        "entry_points",
        lambda group, name: [point] if (group, name) == (plugged.ENTRY_POINTS, "shelf") else [],
    )


def test_an_app_takes_a_store_of_its_author_s(tmp_path: Path) -> None:
    """Given an app with an object for results, When a worker keeps an outcome, Then a handle finds it there."""
    shelf = Shelf()
    app = Taskstream("shop", broker="redis://localhost:1", results=shelf)

    @app.task
    def double(number: int) -> int:
        return 2 * number

    assert app.results is not None and app.results.url == "shelf://here"
    one = outcome(new_id(), handler="shop.double", group="taskstream")
    app.results.write([one])
    assert shelf.read(one.id) == [one]
    assert app.AsyncResult(one.id).state == "SUCCESS"
    app.close()
    assert shelf.closed == 1
    assert app.AsyncResult(one.id).ready()


def test_the_environment_goes_before_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSTREAM_RESULTS", f"json://{tmp_path}/elsewhere")
    app = Taskstream("shop", broker="redis://localhost:1", results=Shelf())
    assert app.results is not None and app.results.url == f"json://{tmp_path}/elsewhere"


@pytest.mark.parametrize(
    ("given", "lacks"),
    [(5, r"write\(\), read\(\), sweep\(\), close\(\)"), (Path("results"), "write"), (ResultStore, r"url \(text\)")],
)
def test_what_is_no_store_is_refused_saying_what_it_lacks(given: Any, lacks: str) -> None:
    with pytest.raises(ConfigError, match=rf"results=.* is no result store, it has no {lacks}") as raised:
        Taskstream("shop", results=given)
    assert "\n" not in str(raised.value)


def test_a_package_brings_a_store_for_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, f"{__name__}:Shelf")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Shelf)
    store = open_store("shelf://bucket/results", base=tmp_path, retention=60, fsync="checkpoint")
    assert isinstance(store, plugged.PluggedStore)
    assert store.url == "shelf://bucket/results"
    assert store._store.settings == {"base": tmp_path, "retention": 60, "fsync": "checkpoint"}  # type: ignore[attr-defined]
    one = outcome(new_id())
    store.write([one])
    assert store.read(one.id) == [one]
    assert store.sweep(NOW_MS) == 0
    app = Taskstream("shop", broker="redis://localhost:1", results="shelf://bucket")
    assert app.results is not None and app.results.url == "shelf://bucket"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("no_such_package:Store", "ModuleNotFoundError"),
        ("json:dumps", "TypeError"),
        ("pathlib:Path.cwd", "TypeError"),
        ("builtins:dict", "has no write"),
    ],
)
def test_a_package_s_store_that_cannot_be_opened_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, problem: str
) -> None:
    registered(monkeypatch, value)
    if value == "builtins:dict":
        monkeypatch.setattr(EntryPoint, "load", lambda self: lambda url, **settings: dict(settings))
    with pytest.raises(ConfigError, match=problem) as raised:
        open_store("shelf://bucket", base=tmp_path)
    assert "shelf://bucket" in str(raised.value) and "\n" not in str(raised.value)


def test_errors_of_a_foreign_library_become_those_of_the_contract() -> None:
    """A worker pauses and tries on after an OSError; anything else would cost it what it holds."""
    store = plugged.PluggedStore(Broken(), "results")
    with pytest.raises(ResultStoreError, match="shelf://here did not keep a batch: KeyError"):
        store.write([outcome(new_id())])
    with pytest.raises(ResultUnavailable, match="shelf://here cannot be read: KeyError"):
        store.read("x")
    with pytest.raises(ResultStoreError, match="did not sweep"):
        store.sweep(NOW_MS)


def test_commands_do_not_take_an_object_s_url_for_one_they_can_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelved.py").write_text(
        "from taskstream import Taskstream\n"
        "class Shelf:\n"
        "    url = 'shelf://here'\n"
        "    write = read = sweep = close = lambda self, *a: []\n"
        "app = Taskstream('shop', results=Shelf())\n"
        "@app.task\n"
        "def nothing() -> None: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gather(Target(app="shelved:app")).results is None
