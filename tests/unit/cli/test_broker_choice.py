"""Which broker a command talks to: each source wins over those after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskstream import embedded
from taskstream.cli.broker_choice import Choice, choose
from taskstream.cli.target import Target
from taskstream.errors import ConfigError

TARGET = Target(app="shop:app")


def configured(target: Target) -> str | None:
    assert target == TARGET
    return "redis://configured"


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The URL of a running `taskstream dev`, once one is put in."""
    urls: list[str] = []
    (tmp_path / ".taskstream").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        embedded, "running_broker_url", lambda folder: urls[0] if folder == Path.cwd() and urls else None
    )
    return urls


def test_precedence(monkeypatch: pytest.MonkeyPatch, running: list[str]) -> None:
    assert choose(None, TARGET, configured) == Choice("redis://configured", "said by shop:app")
    running.append("redis://running")
    assert choose(None, TARGET, configured) == Choice("redis://running", "the running `taskstream dev` of this folder")
    monkeypatch.setenv("TASKSTREAM_BROKER", "redis://variable")
    assert choose(None, TARGET, configured) == Choice("redis://variable", "TASKSTREAM_BROKER")
    assert choose("redis://option", TARGET, configured) == Choice("redis://option", "--broker")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, running: list[str]) -> None:
    monkeypatch.setenv("TASKSTREAM_BROKER", "")
    assert choose(None, TARGET, configured).source == "said by shop:app"


@pytest.mark.parametrize("target", [None, TARGET])
def test_no_broker_says_what_to_do(target: Target | None, running: list[str]) -> None:
    with pytest.raises(ConfigError, match="no broker: pass --broker"):
        choose(None, target, lambda target: None)


def test_said_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    Choice("redis://me:secret@h:1/0", "--broker").say()
    assert capsys.readouterr() == ("", "taskstream: broker redis://me:***@h:1/0 (--broker)\n")


def test_a_url_that_cannot_be_used_is_said_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="broker URL 'http://h' cannot be used"):
        Choice("http://h", "--broker").say()
