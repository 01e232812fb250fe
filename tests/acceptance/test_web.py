"""The production server over real sockets: requests of every kind to one running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis
from helpers import eventually, need
from web_app import PATH, READING, WebServer, start_server, started, write_app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[WebServer]:
    """Two web processes around the app."""
    folder = write_app(tmp_path_factory.mktemp("web") / "app")
    found = start_server(partial(started, output=folder / "log"), folder, valkey_url)
    yield found
    found.process.remove()


def log_lines(server: WebServer, request_id: str) -> list[str]:
    return [line for line in server.process.output.splitlines() if request_id in line]


def test_a_post_is_on_the_stream_when_it_is_answered(server: WebServer, redis_client: redis.Redis) -> None:
    answer = server.post(READING, **{"X-Track-Request-Id": "one-reading"})
    assert (answer.status, answer.json) == (200, {**READING, "wait": 0.0})
    assert answer.headers["x-track-request-id"] == "one-reading"
    assert answer.headers["x-event-app"] == "meter.1x0"
    ((_, fields),) = redis_client.xrange("readings")
    assert json.loads(fields[b"body"]) == answer.json
    assert fields[b"name"] == b"Reading"
    assert json.loads(fields[b"headers"])["request_id"] == "one-reading"
    assert [" | START |" in line or " | DONE |" in line for line in log_lines(server, "one-reading")] == [True, True]


def test_many_at_once_are_all_published(server: WebServer, redis_client: redis.Redis) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: server.post({**READING, "value": float(number)}), range(200)))
    assert {answer.status for answer in answers} == {200}
    values = sorted(json.loads(fields[b"body"])["value"] for _, fields in redis_client.xrange("readings"))
    assert values == [float(number) for number in range(200)]


def test_metrics_add_up_over_the_processes(server: WebServer, broker_url: str) -> None:
    def count() -> float:
        text = server.ask("GET", "/metrics").text
        lines = [
            line for line in text.splitlines() if line.startswith("taskstream_http_requests_total") and PATH in line
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines if 'status="200"' in line)

    before = count()
    for _ in range(20):
        server.post(READING)
    assert [count() for _ in range(6)] == [before + 20] * 6


def test_slow_requests_do_not_hold_up_others(server: WebServer, broker_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(server.post, {**READING, "wait": 2.0}) for _ in range(8)]
        assert server.post(READING).status == 200
        assert not all(one.done() for one in slow)
        assert [one.result().status for one in slow] == [200] * 8


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b'{"sensor": "\xff", "value": 1}', None),
        (b"null", None),
        (b"[]", None),
        (b'"text"', None),
        (b"NaN", None),
        (b"[" * 100_000, None),
        (b'{"sensor": "x"}', "value"),
        (b'{"sensor": 1, "value": 1}', "sensor"),
        (b'{"sensor": "x", "value": "1"}', "value"),
        (b'{"sensor": "x", "value": 1e999}', None),
        (b'{"sensor": "x", "value": 1, "extra": 1}', "extra"),
        (b'{"sensor": "\\ud800", "value": 1}', None),
    ],
)
def test_a_payload_that_does_not_fit_is_400(
    server: WebServer, redis_client: redis.Redis, body: bytes, field: str | None
) -> None:
    answer = server.post(body)
    assert answer.status == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["request_id"] == answer.headers["x-track-request-id"]
    assert "Traceback" not in answer.text
    if field:
        assert field in answer.json["errors"]
    assert redis_client.exists("readings") == 0
    assert len(log_lines(server, answer.json["request_id"])) == 1


def test_an_unknown_query_argument_is_400(server: WebServer, redis_client: redis.Redis) -> None:
    answer = server.ask("POST", f"{PATH}?verbose=1", READING)
    assert answer.status == 400 and "verbose" in answer.json["errors"]
    assert redis_client.exists("readings") == 0


def test_a_handler_that_raises_is_500_with_the_reason_in_the_log(server: WebServer, broker_url: str) -> None:
    answer = server.post({**READING, "sensor": "broken"})
    assert answer.status == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "internal-secret" not in answer.text and "Traceback" not in answer.text
    failed = [line for line in log_lines(server, answer.json["request_id"]) if "FAILED" in line]
    assert len(failed) == 1 and "internal-secret" in failed[0] and "Traceback" in failed[0]
    assert server.post(READING).status == 200


def chunked(size: int) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (size // 0x10000) + b"0\r\n\r\n"


def test_a_large_payload_is_413_however_it_is_sent(server: WebServer, redis_client: redis.Redis) -> None:
    declared = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n"
    )
    for request in (declared.encode() + b"\r\n" + b" " * 100, chunked(3 * 1024 * 1024)):
        assert server.raw(request).startswith(b"HTTP/1.1 413 ")
    text = json.dumps(READING).encode()
    fits = chunked(0).replace(b"\r\n0\r\n", f"\r\n{len(text):x}\r\n".encode() + text + b"\r\n0\r\n")
    assert server.raw(fits).startswith(b"HTTP/1.1 200 ")
    assert redis_client.xlen("readings") == 1


HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /%00%ff%c3%28 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /static/%2e%2e/settings.py HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-Bad: a\x00b\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\n" + HOST + b"X-Track-Request-Id: \xff\xfe\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /?" + b"a=1&" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /nowhere HTTP/1.1\r\n" + HOST + b"X-Many: 1\r\n" * 300 + b"\r\n",
        b"no http at all\r\n\r\n",
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n".encode(),
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
        + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    ],
)
def test_nothing_that_is_sent_makes_a_500(server: WebServer, redis_client: redis.Redis, request_bytes: bytes) -> None:
    received = server.raw(request_bytes)
    assert re.match(rb"HTTP/1\.[01] (4\d\d|200) ", received), received
    assert b"Traceback" not in received
    assert redis_client.exists("readings") == 0
    assert server.ask("GET", "/healthz").status == 200


def test_a_body_that_breaks_off_is_not_published(server: WebServer, redis_client: redis.Redis) -> None:
    import socket

    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(head.encode() + json.dumps(READING).encode())
        connection.shutdown(socket.SHUT_WR)
        received = connection.recv(65536)
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")
    assert redis_client.exists("readings") == 0


def test_stop_and_start_over_http(server: WebServer, broker_url: str) -> None:
    for action, state in (("stop", "stopped"), ("stop", "stopped"), ("start", "started")):
        answer = server.ask("GET", f"/mgmt/meter/1x0/keep-reading/{action}")
        assert answer.status == 200
        assert answer.json == {"event": "meter.1x0.keep-reading", "state": state, "workers": []}


def render(url: str, folder: Path, *switches: str) -> tuple[str, list[str]]:
    """What headless Chromium makes of a page: its DOM, and its console's lines."""
    program = need(shutil.which("chromium"), "chromium")
    done = subprocess.run(
        [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder}", "--enable-logging=stderr"),
            *(*switches, "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_documents_work_in_a_browser(server: WebServer, broker_url: str, tmp_path: Path) -> None:
    dom, console = render(
        f"http://localhost:{server.port}/api/docs", tmp_path / "profile", "--virtual-time-budget=15000"
    )
    assert f'data-path="{PATH}"' in dom
    assert "/mgmt/meter/1x0/keep-reading/stop" in dom
    assert console == []


def test_the_state_page_works_in_a_browser(server: WebServer, redis_client: redis.Redis, tmp_path: Path) -> None:
    server.post(READING)
    redis_client.xgroup_create("readings", "keepers", "0")
    for number, width in enumerate((1280, 360)):
        switch = f"--window-size={width},900"
        dom, console = render(f"http://localhost:{server.port}/", tmp_path / f"profile-{number}", switch)
        assert "meter.1x0.keep-reading" in dom and "keepers" in dom
        assert console == []


def test_another_name_for_this_machine_is_refused(server: WebServer, broker_url: str) -> None:
    assert server.ask("GET", "/healthz", headers={"Host": "rebound.example"}).status == 403


def test_it_also_runs_under_the_flask_command(
    start_process: object, tmp_path: Path, redis_client: redis.Redis, broker_url: str
) -> None:
    from helpers import Started, free_port

    assert callable(start_process)
    folder, port = write_app(tmp_path / "app"), free_port()
    env = {"TASKSTREAM_CONFIG_FILES": "server.json,config.json", "TASKSTREAM_BROKER": broker_url}
    command = [sys.executable, "-m", "flask", "--app", "taskstream_webapp", "run", "--port", str(port)]
    process: Started = start_process(command, cwd=folder, env=env)
    server = WebServer(process, port)
    eventually(lambda: server.ask("GET", "/healthz").status == 200, 60.0)
    assert server.post(READING).status == 200
    assert redis_client.xlen("readings") == 1
    wrong: Started = start_process(command, cwd=folder, env={"TASKSTREAM_CONFIG_FILES": "missing.json"})
    assert wrong.wait() == 2
    assert "Error: " in wrong.output and "missing.json" in wrong.output and "Traceback" not in wrong.output
