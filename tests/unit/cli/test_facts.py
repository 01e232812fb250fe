"""What a command finds out about the code, without being touched by it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from shop import LABEL, write_shop

from taskstream.cli import facts
from taskstream.cli.box import announce
from taskstream.cli.facts import Known, broker_said_by, gather_apart, open_results, streams_said_by
from taskstream.cli.target import Target
from taskstream.errors import ConfigError, TaskstreamError

FILES = Target(config_files="server.json,config.json")
APP = Target(app="toys:app")
TOYS = """
from taskstream import Taskstream
print("a module that prints")
app = Taskstream("toys", broker="redis://toys:6379/1", results="json://kept")

@app.task(queue="blocks")
def stack(height: int) -> None: ...
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_of_a_configuration(tmp_path: Path) -> None:
    write_shop(tmp_path, "redis://shop:1/0")
    found = gather_apart(FILES)
    assert (found.broker, found.docs_path) == ("redis://shop:1/0", "/api/docs")
    assert found.results == f"file://{tmp_path}/results"
    assert found.packages == [str(tmp_path / "shop_app")]
    assert found.subscriptions == [Known(LABEL, "bill", "orders", "billing")]
    assert broker_said_by(FILES) == "redis://shop:1/0"
    assert streams_said_by(FILES) == ["orders"]


def test_of_an_app(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("toys.py").write_text(TOYS)
    found = gather_apart(APP)
    assert (found.broker, found.results) == ("redis://toys:6379/1", f"json://{tmp_path}/kept")
    assert found.docs_path == "/api/docs"
    assert found.packages == [str(tmp_path)]
    assert found.subscriptions == [Known("blocks", "blocks", "blocks", "taskstream")]
    assert (broker_said_by(APP), streams_said_by(APP)) == ("redis://toys:6379/1", ["blocks"])
    assert capfd.readouterr() == ("", "")


def test_results_at_the_broker_are_where_that_will_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given code that names no broker, or another one than will be chosen
    Path("toys.py").write_text(TOYS.replace("json://kept", "redis://").replace('broker="redis://toys:6379/1", ', ""))
    write_shop(tmp_path)
    server = json.loads(Path("server.json").read_text())
    Path("server.json").write_text(json.dumps({**server, "results": {"url": "redis://"}}))
    for target in (APP, FILES):
        # When it is asked where results are kept
        found = gather_apart(target)
        # Then it is at the broker, and once that is known, there
        assert found.results == "redis://"
        announce("http://page", "redis://chosen:1/0", found, "Ctrl-C")
        assert "results  redis://chosen:1/0\n" in capsys.readouterr().out


def test_results_may_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shop(tmp_path)
    monkeypatch.setenv("TASKSTREAM_RESULTS", "json://elsewhere")
    assert gather_apart(FILES).results == f"json://{tmp_path}/elsewhere"
    store = open_results(FILES)
    assert store is not None and store.url == f"json://{tmp_path}/elsewhere"
    store.close()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(7)", "loading the code ended the process that tried"),
        ("import os; os.kill(os.getpid(), 9)", "loading the code ended the process that tried"),
        ("x = 1", "is no Taskstream app"),
    ],
)
def test_code_that_cannot_be_loaded_is_one_line(code: str, text: str) -> None:
    Path("toys.py").write_text(code)
    with pytest.raises(ConfigError, match=text) as caught:
        gather_apart(APP)
    assert "\n" not in str(caught.value)


def test_code_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("toys.py").write_text("import time; time.sleep(60)")
    begun = time.monotonic()
    with pytest.raises(TaskstreamError, match="interrupted"):
        gather_apart(APP, give_up=lambda: True)
    monkeypatch.setattr(facts, "LOAD_TIMEOUT_S", 0.3)
    with pytest.raises(ConfigError, match="took longer than"):
        gather_apart(APP)
    assert time.monotonic() - begun < 20.0


def test_no_target_has_no_streams() -> None:
    assert streams_said_by(None) == []
