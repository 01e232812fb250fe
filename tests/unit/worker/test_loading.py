"""From what a pool was asked for to what it runs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskstream.errors import ConfigError
from taskstream.keys import GATHER
from taskstream_worker.loading import Loaded, load
from taskstream_worker.options import PoolOptions, Target

CONFIG = {
    "app": {"name": "loading-app", "version": "1.0"},
    "events": {
        "bill": {"type": "STREAM", "read_stream": {"name": "orders", "consumer_group": "bill"}},
        "ship": {"type": "STREAM", "read_stream": {"name": "orders", "consumer_group": "ship"}},
        "track": {"type": "STREAM", "read_stream": {"name": "shipped", "consumer_group": "track"}},
    },
}
EVENT = '''
"""
Event
"""
from taskstream.app.context import EventContext
from taskstream.dataobjects import dataobject

__steps__ = ["take"]

@dataobject
class Order:
    item: str

def take(order: Order, context: EventContext) -> str:
    return order.item
'''
TASKS = """
from taskstream import Taskstream

app = Taskstream("loading", broker="redis://in-code:1/0", results="json://results")
empty = Taskstream("empty", broker="redis://in-code:1/0")
number = 5

@app.task
def one() -> None: ...

@app.task(queue="other")
async def two() -> int:
    return 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with an app of tasks and one of events; what is imported from there is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "loading_tasks.py").write_text(TASKS)
    write(tmp_path, {"streams": {"connection_str": "redis://in-file:1/0"}}, CONFIG)
    package = tmp_path / "loading_app"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("bill", "ship", "track", "take"):
        (package / f"{name}.py").write_text(EVENT)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("loading_tasks", "loading_app")]:
        del sys.modules[name]


def write(folder: Path, server: dict[str, Any], config: dict[str, Any]) -> None:
    (folder / "server.json").write_text(json.dumps(server))
    (folder / "config.json").write_text(json.dumps(config))


def tasks(target: str = "loading_tasks:app", **options: Any) -> Loaded:
    return load(PoolOptions(Target(app=target), **options), asyncio.run)


def events(**options: Any) -> Loaded:
    return load(PoolOptions(Target(config_files="server.json,config.json"), **options), asyncio.run)


def test_an_app_of_tasks(folder: Path) -> None:
    loaded = tasks()
    assert [(one.label, one.stream, one.group) for one in loaded.subscriptions] == [
        ("loading", "loading", "taskstream"),
        ("other", "other", "taskstream"),
    ]
    assert all(set(one.handlers) == {"loading.one", "loading.two", GATHER} for one in loaded.subscriptions)
    assert loaded.broker_url == "redis://in-code:1/0"
    assert loaded.store is not None and loaded.store.url == f"json://{folder}/results"
    assert (loaded.log_level, loaded.log_format) == ("INFO", "text")


def test_what_the_command_line_says_goes_first(folder: Path) -> None:
    options = {
        "broker_url": "redis://given:1/0",
        "results_url": "json://elsewhere",
        "log_level": "DEBUG",
        "log_format": "json",
    }
    for loaded in (tasks(**options), events(**options)):
        assert loaded.broker_url == "redis://given:1/0"
        assert loaded.store is not None and loaded.store.url == f"json://{folder}/elsewhere"
        assert (loaded.log_level, loaded.log_format) == ("DEBUG", "json")


def test_the_environment_goes_before_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSTREAM_BROKER", "redis://in-env:1/0")
    monkeypatch.setenv("TASKSTREAM_RESULTS", "null")
    for loaded in (tasks(), events()):
        assert (loaded.broker_url, loaded.store) == ("redis://in-env:1/0", None)


@pytest.mark.parametrize("queues", [["other"], ["other", "loading"], ["not-of-a-task"]])
def test_queues_of_tasks_are_chosen(folder: Path, queues: list[str]) -> None:
    assert [one.stream for one in tasks(queues=queues).subscriptions] == queues


def test_events(folder: Path) -> None:
    loaded = events()
    assert [(one.label, one.stream, one.group) for one in loaded.subscriptions] == [
        ("loading-app.1x0.bill", "orders", "bill"),
        ("loading-app.1x0.ship", "orders", "ship"),
        ("loading-app.1x0.track", "shipped", "track"),
    ]
    assert all(one.default is not None and one.auto_start for one in loaded.subscriptions)
    assert not any(one.auto_start for one in events(auto_start=False).subscriptions)
    assert loaded.broker_url == "redis://in-file:1/0"


@pytest.mark.parametrize(
    ("queues", "chosen"),
    [
        (["orders"], ["bill", "ship"]),
        (["bill"], ["bill"]),
        (["loading-app.1x0.track"], ["track"]),
        (["track", "orders", "bill"], ["track", "bill", "ship"]),
    ],
)
def test_events_are_chosen_by_stream_label_or_name(folder: Path, queues: list[str], chosen: list[str]) -> None:
    assert [one.label.rpartition(".")[2] for one in events(queues=queues).subscriptions] == chosen


def test_a_name_that_nothing_has_is_told_with_those_there_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bil'.*loading-app\.1x0\.bill, loading-app\.1x0\.ship"):
        events(queues=["orders", "bil"])


def test_nothing_to_run_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"-A package\.module:app"):
        load(PoolOptions(Target()), asyncio.run)
    with pytest.raises(ConfigError, match="no tasks"):
        tasks("loading_tasks:empty")
    with pytest.raises(ConfigError, match="no Taskstream app"):
        tasks("loading_tasks:number")
    with pytest.raises(ConfigError, match="'nowhere'"):
        tasks("nowhere:app")


def test_how_long_dead_letters_are_kept_is_said_by_app_or_server_file(folder: Path) -> None:
    assert {one.dead_retention for one in (*tasks().subscriptions, *events().subscriptions)} == {30 * 86400.0}
    write(folder, {"streams": {"connection_str": "redis://h", "dead_retention": "2d"}}, CONFIG)
    assert {one.dead_retention for one in events().subscriptions} == {2 * 86400.0}


def test_events_without_a_broker_are_told(folder: Path) -> None:
    write(folder, {}, CONFIG)
    with pytest.raises(ConfigError, match=r"--broker, TASKSTREAM_BROKER or streams\.connection_str"):
        events()


def test_a_configuration_without_stream_events_is_told(folder: Path) -> None:
    config = CONFIG | {"events": {"take": {"type": "POST"}}}
    write(folder, {"streams": {"connection_str": "redis://h"}}, config)
    (folder / "loading_app" / "take.py").write_text(EVENT)
    with pytest.raises(ConfigError, match="no STREAM event"):
        events()


def test_a_result_store_that_cannot_be_used_is_told(folder: Path) -> None:
    for bad in (tasks, events):
        with pytest.raises(ConfigError, match="results URL 'ftp://x'"):
            bad(results_url="ftp://x")
