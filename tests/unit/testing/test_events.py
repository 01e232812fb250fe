"""``execute_event``: the steps and hooks of one event, as a request or a message would have them run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from taskstream.errors import ConfigError, ValidationError
from taskstream.testing import execute_event

ASK = """
from taskstream.app.api import event_api
from taskstream.app.context import EventContext
__steps__ = ["double"]
__api__ = event_api(query_args={"times": (int | None, "how often")}, responses={200: (dict, "it")})
ready = []
async def __init_event__(context): ready.append(context.event_name)
def __preprocess__(payload, context, request, times=None):
    if request.headers.get("X-Stop"):
        request.status = 403
        return "stopped"
    return times or 1
def double(times: int, context: EventContext) -> dict:
    return {"times": 2 * times, "env": dict(context.env), "ready": list(ready)}
def __postprocess__(value, context, response):
    response.headers["X-Times"] = str(value["times"])
    return value
"""
WORK = """
from taskstream.app.context import EventContext
from taskstream.dataobjects import dataobject
__steps__ = ["work"]
@dataobject
class Work:
    text: str
async def work(value: Work, context: EventContext) -> str | None:
    return f"{value.text} of {context.stream.name if context.stream else None}" if value.text else None
"""


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "little_app"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "little_app").mkdir()
    for name, text in (("__init__", ""), ("ask", ASK), ("work", WORK)):
        (tmp_path / "little_app" / f"{name}.py").write_text(text)
    reads = {"type": "STREAM", "read_stream": {"name": "jobs", "consumer_group": "g"}}
    config = {"app": {"name": "little-app", "version": "1.0"}, "env": {"a": {"b": 1}}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "events": {"ask": {"type": "GET"}, "work": reads}}))
    importlib.invalidate_caches()
    return tmp_path / "config.json"


@pytest.fixture
def work(configuration: Path) -> ModuleType:
    return importlib.import_module("little_app.work")


def test_an_event_of_a_configuration(configuration: Path) -> None:
    done = execute_event("ask", config_files=configuration, query_args={"times": 4}, env={"c": 2})
    assert done.value == {"times": 8, "env": {"a": {"b": 1}, "c": 2}, "ready": ["ask"]}
    assert (done.status, done.headers, done.answer) == (200, {"X-Times": "8"}, done.value)
    stopped = execute_event("ask", config_files=configuration, headers={"X-Stop": "1"})
    assert (stopped.value, stopped.answer, stopped.status) == (None, "stopped", 403)
    streamed = execute_event("little-app.1x0.work", '{"text": "a"}', config_files=configuration)
    assert streamed.value == "a of jobs"


def test_a_module(work: ModuleType) -> None:
    for payload in (work.Work("a"), {"text": "a"}, b'{"text": "a"}'):
        assert execute_event(work, payload).value == "a of None"
    assert execute_event(work, work.Work("")).value is None


@pytest.mark.parametrize("payload", [{"tex": "a"}, {"text": 5}, "{", b"[]"])
def test_a_payload_that_does_not_fit_is_told(work: ModuleType, payload: object) -> None:
    with pytest.raises(ValidationError):
        execute_event(work, payload)


def test_what_cannot_be_run_is_told(configuration: Path) -> None:
    with pytest.raises(ConfigError, match="there is no event 'aks', only ask, work"):
        execute_event("aks", config_files=configuration)
    with pytest.raises(ConfigError, match="give its module, or config_files="):
        execute_event("ask")
    with pytest.raises(ConfigError, match="has no __steps__"):
        execute_event(json.decoder)
    with pytest.raises(ConfigError, match="is in no package"):
        execute_event(json)
    with pytest.raises(ValidationError, match="time: there is no such query argument"):
        execute_event("ask", config_files=configuration, query_args={"time": 1})
