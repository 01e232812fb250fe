"""docker/: the compose file against the compose specification's schema, and what both files promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dockerfile import context_files, instructions
from helpers import ROOT
from ruamel.yaml import YAML

COMPOSE = ROOT / "docker" / "compose.yaml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
IGNORE = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
    return found


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    """Against the schema that the package check-jsonschema brings along."""
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_compose_file_follows_the_schema() -> None:
    done = check_schema(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_notices_a_wrong_key(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("stop_grace_period", "stop_grace_time"))
    assert check_schema(wrong).returncode == 1


def test_valkey_persists_and_evicts_nothing(services: dict[str, Any]) -> None:
    command = services["valkey"]["command"]
    settings = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "valkey-server"
    assert settings == {"--appendonly": "yes", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"}
    assert services["valkey"]["volumes"] == ["valkey:/data"]
    assert "ports" not in services["valkey"]


def test_two_workers_get_the_time_to_finish(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert worker["deploy"]["replicas"] == 2
    grace = float(worker["command"][worker["command"].index("--grace") + 1])
    assert worker["command"][0] == "worker"
    assert float(worker["stop_grace_period"].removesuffix("s")) > grace


def test_every_service_reaches_the_broker_and_shares_the_results(services: dict[str, Any]) -> None:
    for name in ("web", "worker"):
        service = services[name]
        assert service["environment"]["TASKSTREAM_BROKER"] == "redis://valkey:6379/0"
        assert service["depends_on"]["valkey"]["condition"] == "service_healthy"
        assert service["volumes"] == ["data:/data"]
    assert "healthcheck" in services["valkey"] and "healthcheck" in services["worker"]


def test_the_web_server_listens_beyond_loopback_only_with_a_token(services: dict[str, Any]) -> None:
    assert "0.0.0.0" in services["web"]["command"] and "--insecure" not in services["web"]["command"]
    assert services["web"]["environment"]["TASKSTREAM_AUTH_TOKEN"].startswith("${TASKSTREAM_AUTH_TOKEN:?")
    assert services["web"]["ports"] == ["127.0.0.1:8020:8020"]


def test_the_image_is_slim_does_not_run_as_root_and_says_whether_it_is_healthy() -> None:
    found = instructions(DOCKERFILE)
    words = [word for word, _ in found]
    assert [rest.split()[0] for word, rest in found if word == "FROM"] == ["python:3.11-slim"] * 2
    (user,) = [rest for word, rest in found if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert words.index("USER") < words.index("CMD")
    (health,) = [rest for word, rest in found if word == "HEALTHCHECK"]
    assert "/healthz" in health


def test_the_build_context_is_what_the_image_is_made_of(tmp_path: Path) -> None:
    # Given a checkout with leftovers of running it
    for name in (
        *("setup.py", "taskstream/app.py", "taskstream/results/sqlite.py", "worker/main.py", "examples/x/config.json"),
        *("tests/test_x.py", "taskstream/__pycache__/app.pyc", "examples/x/results/outcomes.db", ".taskstream/lock"),
        *("examples/x/.taskstream/broker.json", ".venv/bin/python"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    # Then only the sources are sent
    assert {str(path) for path in context_files(tmp_path, IGNORE)} == {
        *("setup.py", "taskstream/app.py", "taskstream/results/sqlite.py", "worker/main.py", "examples/x/config.json")
    }
