"""Tasks over HTTP and from the command line: a real web server, a real pool, and clients that wait or listen."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from helpers import OwnServer, eventually, taskstream_command
from web_app import Answer, WebServer, start_server, started

MODULE = """
import time
from datetime import date
from pathlib import Path

from taskstream import Taskstream

HERE = Path(__file__).parent
app = Taskstream("desk", results="file://results")


@app.task
def double(number: int, when: date | None = None) -> int:
    "Twice as much."
    return 2 * number


@app.task
def fails(text: str) -> None:
    raise ValueError(text)


@app.task(bind=True)
def steps(self, key: str) -> str:
    for step in (1, 2):
        self.progress(step, 2)
        while not (HERE / f"go-{key}-{step}").exists():
            time.sleep(0.01)
    return key


@app.task
def hold(key: str) -> str:
    while not (HERE / f"go-{key}").exists():
        time.sleep(0.01)
    return key
"""
THREADS = 6
MOST = THREADS // 2


class Desk:
    """The app in its folder, with web server and pool."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "desk.py").write_text(MODULE, encoding="utf-8")
        start = partial(started, cwd=folder, env={"TASKSTREAM_BROKER": broker}, output=folder / "pool.log")
        self.pool = start(taskstream_command("worker", "-A", "desk:app", "--processes", "1"))
        self.broker = broker
        self.web: WebServer = start_server(
            lambda arguments, cwd, env: started(arguments, cwd=cwd, env=env, output=folder / "web.log"),
            folder,
            broker,
            config_files=None,
            app="desk:app",
            processes=1,
            threads=THREADS,
        )

    def call(self, task: str, *arguments: object, options: Any = None, **headers: str) -> Any:
        body = {"args": list(arguments), "options": options or {}}
        return self.web.ask("POST", f"/api/tasks/desk.{task}", body, headers)

    def go(self, key: str) -> None:
        (self.folder / f"go-{key}").touch()

    @contextmanager
    def listen(self, message_id: str, **headers: str) -> Iterator[HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.web.port, timeout=20)
        connection.request("GET", f"/api/tasks/{message_id}/events", headers=headers)
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
            connection.close()

    def accepted(self, message_id: str, stack: ExitStack) -> HTTPResponse:
        """A listener with a slot of its own, which ``stack`` closes; slots of clients that went away come free late."""

        def listener() -> HTTPResponse | None:
            with ExitStack() as one:
                response = one.enter_context(self.listen(message_id))
                if response.status != 200:
                    return None
                stack.push(one.pop_all())
                return response

        found = eventually(listener, 20, "the threads of clients that went away stay held")
        assert found is not None
        return found

    def asked(self, message_id: str, **headers: str) -> int:
        """The status of who would listen."""
        with self.listen(message_id, **headers) as response:
            return response.status


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One server and one pool for all tests here."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "valkey").mkdir()
    server = OwnServer(folder / "valkey")
    found = Desk(folder / "app", server.url)
    yield found
    found.web.process.remove()
    found.pool.remove()
    server.stop()


def events_of(response: HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Kind and data of each event, as it comes."""
    kind = ""
    for raw in response:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_a_call_runs_and_can_be_followed_up(desk: Desk) -> None:
    answer = desk.call("double", 4, **{"X-Track-Request-Id": "desk-1"})
    assert (answer.status, answer.json["state"]) == (202, "PENDING")
    path = answer.headers["location"]
    found = eventually(lambda: (now := desk.web.ask("GET", path).json)["state"] == "SUCCESS" and now)
    assert (found["value"], found["task"], found["request_id"]) == (8, "desk.double", "desk-1")
    assert found["sent"] <= found["started"] <= found["finished"]
    (line,) = [line for line in desk.web.process.output.splitlines() if "desk-1" in line]
    assert " | Sent | " in line and answer.json["id"] in line


def test_a_client_that_waits_is_answered_with_the_result(desk: Desk) -> None:
    answer = desk.call("double", 5, Prefer="wait=20")
    assert (answer.status, answer.headers["preference-applied"], answer.json["value"]) == (200, "wait=20", 10)
    failed = desk.call("fails", "no", Prefer="wait=20")
    assert (failed.status, failed.json["state"]) == (200, "FAILURE")
    assert failed.json["error"] == {"type": "ValueError", "message": "no"} and "Traceback" not in failed.text
    started_at = time.monotonic()
    late = desk.call("hold", "late", Prefer="wait=1")
    assert (late.status, late.headers["preference-applied"]) == (202, "wait=1")
    assert time.monotonic() - started_at < 10
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(desk.web.ask, "GET", late.headers["location"], None, {"Prefer": "wait=20"})
        desk.go("late")
        assert looking.result().json["value"] == "late"


def test_a_repeat_with_its_key_runs_once(desk: Desk) -> None:
    first = desk.call("double", 6, **{"Idempotency-Key": "k-1"})
    again = desk.call("double", 7, **{"Idempotency-Key": '"k-1"', "Prefer": "wait=20"})
    assert (again.status, again.json["id"], again.json["value"]) == (200, first.json["id"], 12)


def test_events_are_told_until_the_end(desk: Desk) -> None:
    message_id = desk.call("hold", "told").json["id"]
    with desk.listen(message_id) as response:
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
        told = events_of(response)
        assert next(told) == ("state", {"id": message_id, "state": "PENDING"})
        before = time.monotonic()
        desk.go("told")
        kind, record = next(told)
        assert (kind, record["state"], record["value"]) == ("result", "SUCCESS", "told")
        assert time.monotonic() - before < 4, "it was found by looking again, not by being told"
        assert list(told) == []
    assert desk.asked(message_id, **{"Last-Event-ID": "end"}) == 204


def test_progress_is_told_as_it_happens(desk: Desk) -> None:
    message_id = desk.call("steps", "on").json["id"]
    eventually(lambda: desk.web.ask("GET", f"/api/tasks/{message_id}").json["state"] == "PROGRESS")
    with desk.listen(message_id) as response:
        told = events_of(response)
        for step in (1, 2):
            before = time.monotonic()
            kind, record = next(told)
            assert (kind, record["state"], record["info"]) == ("progress", "PROGRESS", {"done": step, "total": 2})
            assert time.monotonic() - before < 4, "it was found by looking again, not by being told"
            desk.go(f"on-{step}")
        assert [kind for kind, _ in told] == ["result"]


def test_a_call_is_revoked(desk: Desk) -> None:
    path = desk.call("double", 1, options={"countdown": 3600}).headers["location"]
    assert desk.web.ask("GET", path).json["state"] == "SCHEDULED"
    assert desk.web.ask("DELETE", path).status == 202
    running = desk.call("hold", "never").headers["location"]
    answer = desk.web.ask("DELETE", f"{running}?terminate=true")
    assert (answer.status, answer.json["revoked"]) == (202, True)
    ended = desk.web.ask("GET", running, None, {"Prefer": "wait=20"}).json
    assert ended["state"] == "REVOKED", ended
    again = desk.web.ask("DELETE", running)
    assert (again.status, again.json["revoked"]) == (200, False)


def test_listeners_never_take_the_last_thread(desk: Desk) -> None:
    with ExitStack() as listening:
        for number in range(MOST):
            desk.accepted(f"nobody-{number}", listening)
        found = [listening.enter_context(desk.listen(f"too-many-{number}")) for number in range(2)]
        assert [response.status for response in found] == [503] * 2
        assert found[-1].headers["retry-after"]
        answer = desk.call("double", 1, Prefer="wait=20")
        assert answer.status == 202 and "preference-applied" not in answer.headers
    eventually(lambda: desk.asked("somebody") == 200, 20, "the threads of clients that went away stay held")


def test_the_document_and_the_page_are_served(desk: Desk) -> None:
    document = desk.web.ask("GET", "/api/openapi.json").json
    assert document["paths"]["/api/tasks/desk.double"]["post"]["summary"] == "Twice as much."
    assert desk.web.ask("GET", "/api/docs").status == 200


def test_calls_from_the_command_line(desk: Desk, run_cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    here: dict[str, Any] = {"cwd": desk.folder, "env": {"TASKSTREAM_BROKER": desk.broker}}
    done = run_cli(
        "call", "double", "-A", "desk:app", "--kwargs", '{"number": 21}', "--wait", "--timeout", "30", **here
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    results = f"file://{desk.folder}/results"
    remote = ("call", "desk.fails", "--queue", "desk", "--args", '["x"]', "--wait", "--json", "--results", results)
    failed = run_cli(*remote, **here)
    assert failed.returncode == 1 and json.loads(failed.stdout)["error"]["type"] == "ValueError", failed.stderr


def test_a_stop_does_not_wait_for_who_waits_or_listens(desk: Desk) -> None:
    # The last one here: it stops the server.
    with ExitStack() as listening, ThreadPoolExecutor(1) as pool:
        found = [desk.accepted("never-sent", listening) for _ in range(MOST - 1)]

        def accepted_to_wait() -> Future[Answer] | None:
            """The request of a client that waits; one for which there is no thread is answered at once."""
            looking = pool.submit(desk.web.ask, "GET", "/api/tasks/never-sent", None, {"Prefer": "wait=30"}, 40)
            return None if wait([looking], 0.5).done else looking

        waiting = eventually(accepted_to_wait, 20, "no thread for the client that waits")
        assert waiting is not None
        told = events_of(found[0])
        assert next(told)[0] == "state"
        before = time.monotonic()
        desk.web.process.send(signal.SIGTERM)
        assert desk.web.process.wait() == 0
        assert time.monotonic() - before < 7, "it waited for them to be killed"
        assert waiting.result().json["state"] == "PENDING"
        assert list(told) == []
