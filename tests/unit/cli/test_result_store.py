"""Which result store `taskstream result` looks into: each source wins over those after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from taskstream import embedded
from taskstream.cli.inspect import result
from taskstream.embedded import RunningBroker

RUNNING = "the running `taskstream dev` of this folder"


def asked(*options: str) -> str:
    """What the command says and fails with."""
    done = CliRunner().invoke(result, ["some-id", *options])
    return f"{done.stderr}{done.exception}"


def test_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running: list[RunningBroker] = []
    monkeypatch.setattr(embedded, "running_broker", lambda folder: running[0] if running else None)
    monkeypatch.chdir(tmp_path)
    assert "come to a folder with a running `taskstream dev`" in asked()
    # A `taskstream dev` that keeps none, or does not say
    running.append(RunningBroker("redis://h", 1, 1))
    assert "no result store: " in asked()
    running[0] = RunningBroker("redis://h", 1, 1, f"json://{tmp_path}/dev")
    assert f"results json://{tmp_path}/dev ({RUNNING})" in asked()
    running[0] = RunningBroker("redis://h:1/0", 1, 1, "redis://")
    assert f"results redis://h:1/0 ({RUNNING})" in asked()
    # The code that was named wins over it
    assert RUNNING not in asked("-A", "not_there:app")
    monkeypatch.setenv("TASKSTREAM_RESULTS", f"json://{tmp_path}/variable")
    assert f"results json://{tmp_path}/variable (TASKSTREAM_RESULTS)" in asked()
    assert f"results json://{tmp_path}/option (--results)" in asked("--results", f"json://{tmp_path}/option")


def test_a_folder_that_can_be_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for scheme in ("file", "json"):
        said = asked("--results", f"{scheme}://{tmp_path}/file/results")
        assert f"{tmp_path}/file/results cannot be a folder, because {tmp_path}/file is none" in said
