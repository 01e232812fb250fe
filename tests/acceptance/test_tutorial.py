"""The tutorial, command by command, on its modules: from the OpenAPI document to files, stop and start included."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from box import APPS, START_S, Box, patience
from helpers import OwnServer, eventually, need

CONFIG = "--config-files=server.json,config.json"
CONSUMER = "/mgmt/my-streaming-app/1x0/process-message"

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The tutorial's folder, with nothing run in it yet."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "valkey").mkdir()
    server = OwnServer(folder / "valkey")
    box = Box("tutorial_app", folder / "app", server, {"PYTHONPATH": "."})
    yield box
    box.remove()
    server.stop()


def curl(port: int, command: str) -> tuple[str, str]:
    """Run a line of the tutorial as it stands, but for the port; return head and body of the answer."""
    need(shutil.which("curl"), "curl")
    arguments = shlex.split(command.replace("localhost:8020", f"localhost:{port}"))
    done = subprocess.run([*arguments, "-sS", "-i"], capture_output=True, text=True, timeout=60, check=True)
    head, _, body = done.stdout.partition("\n\n")
    return head, body


def post(port: int, text: str) -> tuple[str, str]:
    data = json.dumps(json.dumps({"text": text}))
    return curl(
        port,
        'curl -X POST "http://localhost:8020/api/my-streaming-app/1x0/send-message" '
        f'-H "Accept: application/json, application/json" -H "Content-Type: application/json" -d {data}',
    )


def header(head: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", head, re.IGNORECASE | re.MULTILINE)
    assert found is not None, head
    return found[1].strip()


def saved(box: Box) -> list[object]:
    folder = box.folder / "processed_messages"
    return [json.loads(path.read_bytes()) for path in folder.glob("*.json")] if folder.exists() else []


def state_of(box: Box, run_cli: RunCli) -> dict[str, object]:
    done = run_cli("queues", "--json", cwd=box.folder, env=box.env)
    assert done.returncode == 0, done.stderr
    (stream,) = json.loads(done.stdout)
    (group,) = stream["groups"]
    return dict(group)


def test_the_tutorial(tutorial: Box, run_cli: RunCli) -> None:
    box = tutorial
    # Given the OpenAPI document, made first
    made = run_cli("openapi", "create", CONFIG, "--output-file=openapi.json", cwd=box.folder, env=box.env)
    assert (made.returncode, made.stderr) == (0, "")
    assert "API Title: My Streaming App" in made.stdout
    # When the server is run
    box.start("--api-file=openapi.json", ready=False)
    eventually(lambda: box.ask("GET", "/readyz").status == 200, START_S, lambda: box.output)
    stream = ("my-stream", "process-message-group")
    eventually(lambda: len(box.consumer_names(*stream)) == len(box.workers()) > 0, START_S, lambda: box.output)

    # And a text is posted
    head, body = post(box.port, "valid text")
    # Then it is answered as the tutorial shows
    assert re.match(r"HTTP/1\.1 200 ", head), head
    assert json.loads(body) == {"text": "valid text", "status": "VALID"}
    request_id = header(head, "X-Track-Request-Id")
    assert header(head, "X-Track-Operation-Id") and header(head, "X-Track-Request-Ts")
    assert header(head, "X-Event-App") == "my_streaming_app.1x0"
    # And soon there is a file
    eventually(lambda: saved(box), patience(10), lambda: box.output)
    assert saved(box) == [{"text": "valid text", "status": "PROCESSED"}]
    # And both halves are in the log under one request id
    track = f"track.request_id={request_id}"
    eventually(lambda: any(" process-message " in line and "| DONE |" in line for line in box.lines(track)), 20)
    texts = [re.search(r"(send-message|process-message) \S+ \d+ \| ([^|]*) \|", line) for line in box.lines(track)]
    said = [(found[1], found[2]) for found in texts if found]
    # Two processes write it, so that the halves may mix
    assert [text for event, text in said if event == "send-message"] == ["START", "Received data", "DONE"]
    assert [text for event, text in said if event == "process-message"] == [
        "START",
        "Received message",
        "Message saved",
        "DONE",
    ]
    assert "extra.path=processed_messages" in box.lines("Initializing FileStorage...")[0]
    eventually(lambda: box.lines("metrics.stream.total_consumed_events=1"), patience(10), "no STATS line")
    # And in the result
    message_id = "".join(box.lines(track)).partition("message.id=")[2].split()[0]
    shown = run_cli("result", message_id, "--json", cwd=box.folder, env=box.env)
    assert shown.returncode == 0, shown.stderr
    (outcome,) = json.loads(shown.stdout)
    assert (outcome["state"], outcome["request_id"]) == ("SUCCESS", request_id)

    # When a text is too short
    head, body = post(box.port, "ab")
    # Then it is refused in the handler's words
    assert re.match(r"HTTP/1\.1 400 ", head), head
    assert json.loads(body) == {"send-message": "invalid data received"}

    # When consumption is stopped, five texts are posted
    head, body = curl(box.port, f"curl localhost:8020{CONSUMER}/stop")
    assert re.match(r"HTTP/1\.1 200 ", head), head
    assert json.loads(body)["state"] == "stopped"
    assert len(json.loads(body)["workers"]) == len(box.workers())
    five = [f"text {number}" for number in range(5)]
    for text in five:
        assert post(box.port, text)[0].startswith("HTTP/1.1 200 ")
    # Then they wait
    group = state_of(box, run_cli)
    assert (group["waiting"], group["held"], group["state"]) == (5, 0, "stopped")
    assert len(saved(box)) == 1
    # And once it is started, by POST this time, all five are processed
    head, body = curl(box.port, f"curl -X POST localhost:8020{CONSUMER}/start")
    assert json.loads(body)["state"] == "started", body
    eventually(lambda: len(saved(box)) == 6, patience(10), lambda: box.output)
    assert {"text": "text 4", "status": "PROCESSED"} in saved(box)
    eventually(lambda: box.at_rest(*stream), patience(10))

    # And the docs are there, offline
    page = box.ask("GET", "/api/docs")
    parts = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert page.status == 200 and parts
    assert {part: box.ask("GET", part).status for part in parts} == dict.fromkeys(parts, 200)
    document = box.ask("GET", "/api/openapi.json")
    assert document.json == json.loads((box.folder / "openapi.json").read_bytes())
    # And a stop leaves nothing behind
    box.stop()
    assert "Traceback" not in box.output


def test_the_modules_import_what_the_tutorial_imports() -> None:
    """Under the name of this package; nothing else of theirs may be fitted to it."""
    package = APPS / "tutorial_app" / "my_streaming_app"
    imports = [
        line
        for path in sorted(package.glob("*.py"))
        for line in path.read_text().splitlines()
        if line.startswith(("from ", "import "))
    ]
    assert [line for line in imports if "taskstream" in line] == [
        "from taskstream.dataobjects import dataobject",
        "from taskstream.app.context import EventContext",
        "from taskstream.app.logger import app_extra_logger",
        "from taskstream.toolkit.storage.fs import FileStorage",
        "from taskstream.app.context import EventContext, PostprocessHook",
        "from taskstream.app.api import event_api",
        "from taskstream.app.logger import app_extra_logger",
    ]
