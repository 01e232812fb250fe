"""Whose code a command is about."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from taskstream.cli.target import Target, find_target, need_target
from taskstream.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_options_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.json").touch()
    monkeypatch.setenv("TASKSTREAM_CONFIG_FILES", "env.json")
    assert find_target("shop:app", None) == Target(app="shop:app")
    assert find_target(None, "mine.json") == Target(config_files="mine.json")
    with pytest.raises(click.UsageError, match="exclude one another"):
        find_target("shop:app", "mine.json")


def test_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.json").touch()
    monkeypatch.setenv("TASKSTREAM_CONFIG_FILES", "env.json")
    assert find_target(None, None) == Target(config_files="env.json")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["server.json", "config.json"], Target(config_files="server.json,config.json")),
        (["config.json"], Target(config_files="config.json")),
        (["server.json"], None),
        ([], None),
    ],
)
def test_then_what_is_here(files: list[str], found: Target | None) -> None:
    for name in files:
        Path(name).touch()
    assert find_target(None, None) == found


def test_nothing_at_all_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        need_target(None, None)
    assert str(caught.value) == (
        f"nothing to run: no config.json in {tmp_path}; name the code with --config-files or -A MODULE:APP"
    )
