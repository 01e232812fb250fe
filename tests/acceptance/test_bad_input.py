"""Mistakes in configuration, code and arguments, through the real command line: one clear line and exit status 2."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from box import APPS
from helpers import Started, eventually, free_port

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]

NOWHERE = "redis://127.0.0.1:1/0"
"""No test here gets as far as to connect to it."""

WORKER = ("worker", "--config-files=server.json,config.json")
RUN = ("run", "--config-files=server.json,config.json")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with a good app."""
    folder = tmp_path / "app"
    shutil.copytree(APPS / "jobs_app", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def edit(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr beside the one that names the broker, of a command that refused."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.splitlines()
    if len(lines) > 1 and lines[0].startswith("taskstream: broker "):
        del lines[0]
    (line,) = lines
    assert line.startswith("taskstream: ")
    return line.removeprefix("taskstream: ")


FILES = [
    ("config.json", '"1.0"},', '"1.0"}', r"config\.json: line 3 column 3: not valid JSON: "),
    ("config.json", '"events"', '"evnts"', r"config\.json: .*evnts: unknown key; did you mean 'events'\?"),
    ("config.json", "retry_backoff", "retry_backof", r"work.*retry_backof: .*did you mean 'retry_backoff'\?"),
    ("config.json", '"max_retries": 2', '"max_retries": "two"', r"config\.json: events\.work.*max_retries: .*integer"),
    (
        "config.json",
        '"name": "jobs", "consumer_group"',
        '"consumer_group"',
        r"config\.json: events\.work\.read_stream\.name: .*(missing|required)",
    ),
    ("config.json", '{"name": "jobs"}', '{"name": "no good"}', r"submit\.write_stream\.name: .*'no good'"),
    ("config.json", '"submit":', '"send":', r"no module.*jobs[./]send|jobs\.send.*"),
    ("config.json", '"name": "jobs", "version"', '"name": "jabs", "version"', r"jabs"),
    ("config.json", '"effects.log"', '"${NO_SUCH_NAME}"', r"config\.json: env\.effects: .*'NO_SUCH_NAME' is not set"),
    ("server.json", '"INFO"', '"LOUD"', r"server\.json: logging\.log_level: must be one of "),
    ("server.json", '"results"', '"result"', r"server\.json: result: unknown key; did you mean 'results'\?"),
    ("server.json", "file://results", "ftp://results", r"ftp://results"),
    ("jobs/work.py", '["run"]', '["walk"]', r"work.*'walk'"),
    ("jobs/work.py", "import os", "raise RuntimeError('out of order')", r"work.*RuntimeError: out of order"),
    ("jobs/work.py", "import os", "import no_such_package", r"work.*no_such_package"),
    ("jobs/work.py", "import os", "def (:", r"work\.py:7"),
]


@pytest.mark.parametrize(("file", "old", "new", "expected"), FILES)
def test_a_mistake_in_a_file(app: Path, run_cli: RunCli, file: str, old: str, new: str, expected: str) -> None:
    edit(app, file, old, new)
    line = only_line(run_cli(*RUN, "--port", str(free_port()), cwd=app, env={"TASKSTREAM_BROKER": NOWHERE}))
    assert re.search(expected, line), line
    assert not (app / "results").exists()


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", b"", r"config\.json: line 1 column 1: not valid JSON"),
        ("config.json", b"\xff\xfe{}", r"config\.json: not UTF-8"),
        ("server.json", b"[" * 100_000, r"server\.json: "),
    ],
)
def test_a_file_that_is_none(app: Path, run_cli: RunCli, file: str, content: bytes, expected: str) -> None:
    (app / file).write_bytes(content)
    line = only_line(run_cli("openapi", "create", cwd=app))
    assert re.match(expected, line), line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*RUN, "--broker", "http://localhost"), r"'http://localhost'"),
        ((*RUN, "--broker", "redis://localhost:port"), r"redis://localhost:port"),
        (("run", "--config-files=server.json"), r"no app in it"),
        (("run", "--config-files=missing.json"), r"missing\.json: no such file"),
        ((*RUN, "--port", "99999"), r"--port"),
        ((*RUN, "--host", "0.0.0.0"), r"TASKSTREAM_AUTH_TOKEN"),
        ((*RUN, "--host", "no.such.host.invalid"), r"no\.such\.host\.invalid"),
        ((*RUN, "--api-file=missing.json"), r"missing\.json"),
        ((*WORKER, "-c", "-5"), r"-c|--concurrency"),
        ((*WORKER, "-c", "many"), r"-c|--concurrency"),
        ((*WORKER, "--processes", "0"), r"--processes"),
        ((*WORKER, "--grace", "-1"), r"--grace"),
        ((*WORKER, "--lease", "0"), r"--lease"),
        ((*WORKER, "--lease", "nan"), r"--lease"),
        ((*WORKER, "--queues", "jubs"), r"--queues.*'jubs'"),
        ((*WORKER, "--queues", ","), r"--queues"),
        ((*WORKER, "-l", "loud"), r"-l|--log-level"),
        ((*WORKER, "-A", "jobs:app"), r"-A.*--config-files"),
        (("worker", "-A", "nonsense"), r"'?nonsense'?"),
        (("worker", "-A", "jobs.nothing:app"), r"jobs\.nothing"),
        (("worker", "-A", "jobs.model:Job"), r"jobs\.model:Job"),
        (("worker", "-A", ":"), r"-A|':'"),
        (("wroker",), r"no command 'wroker'; did you mean 'worker'\?"),
        (("control", "stop"), r"TARGET|EVENT"),
        (("control", "stop", "wark"), r"'wark'; did you mean 'work'\?"),
    ],
)
def test_a_mistake_in_the_arguments(
    app: Path, broker_url: str, run_cli: RunCli, arguments: tuple[str, ...], expected: str
) -> None:
    if arguments[0] == "run" and "--port" not in arguments:
        arguments = (*arguments, "--port", str(free_port()))  # the default one may be in use on this machine
    line = only_line(run_cli(*arguments, cwd=app, env={"TASKSTREAM_BROKER": broker_url}))
    assert re.search(expected, line), line


def test_a_port_that_is_taken(app: Path, run_cli: RunCli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = only_line(run_cli(*RUN, "--port", str(port), cwd=app, env={"TASKSTREAM_BROKER": NOWHERE}))
    assert f"port {port} on 127.0.0.1 cannot be used" in line and "--port" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("TASKSTREAM_LOG_LEVEL", "LOUD"), ("TASKSTREAM_LOG_FORMAT", "xml"), ("TASKSTREAM_RESULTS", "ftp://results")],
)
def test_a_mistake_in_the_environment(app: Path, run_cli: RunCli, name: str, value: str) -> None:
    env = {"TASKSTREAM_BROKER": NOWHERE, name: value}
    line = only_line(run_cli(*WORKER, cwd=app, env=env))
    assert value in line


@pytest.mark.parametrize("app_option", [False, True])
def test_a_pool_that_cannot_work_leaves_no_process(
    app: Path, start_cli: Callable[..., Started], app_option: bool
) -> None:
    # Given code that fails in every worker process
    edit(app, "jobs/work.py", "import os", "raise RuntimeError('out of order')")
    code = ["-A", "jobs.work:app"] if app_option else ["--config-files=server.json,config.json"]
    pool = start_cli("worker", *code, "--processes", "3", cwd=app, env={"TASKSTREAM_BROKER": NOWHERE})
    # Then the pool ends by itself, and says it once however many processes failed
    assert pool.wait(90) == 2, pool.output
    eventually(lambda: pool.family() == [])
    said = [line for line in pool.output.splitlines() if not line.startswith("taskstream: broker ")]
    assert len([line for line in said if "out of order" in line]) == 1, pool.output
    assert "Traceback" not in pool.output
    assert len([line for line in said if line.startswith("taskstream: ")]) == 1


def test_what_is_configured_is_what_is_said(app: Path, run_cli: RunCli) -> None:
    """The control group: without a mistake the same command goes on to its work."""
    done = run_cli("openapi", "create", "--config-files=server.json,config.json", "--output-file=openapi.json", cwd=app)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("Written to openapi.json\n")
    assert "/api/jobs/1x0/submit" in json.loads((app / "openapi.json").read_bytes())["paths"]
