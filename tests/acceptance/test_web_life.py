"""The production server as processes: starting, mistakes, stopping, and dying in every way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from helpers import OwnServer, Started, alive, eventually, free_port
from web_app import READING, Answer, start_server, web_command, write_app

Start = Callable[..., Started]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_app(tmp_path / "app")


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)])
def test_a_stop_signal_ends_all_processes_at_once(
    start_process: Start, folder: Path, broker_url: str, number: signal.Signals, group: bool
) -> None:
    server = start_server(start_process, folder, broker_url)
    family = [process.pid for process in server.process.family()]
    assert len(family) == 3
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")  # and the connection stays open
        server.process.send(number, group=group)
        assert server.process.wait(10) == 0, server.process.output
    assert [pid for pid in family if alive(pid)] == []
    assert "Traceback" not in server.process.output


def test_a_request_under_way_is_finished(start_process: Start, folder: Path, redis_client: redis.Redis) -> None:
    url = f"redis://127.0.0.1:{redis_client.connection_pool.connection_kwargs['port']}/0"
    server = start_server(start_process, folder, url)
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(server.post({**READING, "wait": 2.0})))
    thread.start()
    eventually(lambda: " | START |" in server.process.output)
    server.process.send(signal.SIGTERM)
    thread.join(20)
    assert [answer.status for answer in answers] == [200]
    assert server.process.wait(10) == 0
    assert redis_client.xlen("readings") == 1


def test_nothing_outlives_a_killed_parent(start_process: Start, folder: Path, broker_url: str) -> None:
    server = start_server(start_process, folder, broker_url)
    family = [process.pid for process in server.process.family()]
    server.process.send(signal.SIGKILL)
    eventually(lambda: not [pid for pid in family if alive(pid)])
    with pytest.raises(OSError):
        server.ask("GET", "/healthz")


def test_a_killed_web_process_is_replaced(start_process: Start, folder: Path, broker_url: str) -> None:
    server = start_server(start_process, folder, broker_url)
    before = {process.pid for process in server.process.family()}
    victim = next(pid for pid in before if pid != server.process.pid)
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        return len({process.pid for process in server.process.family()} - {victim}) == len(before)

    eventually(replaced, 20.0)

    def all_well() -> bool:
        return [server.post(READING).status for _ in range(10)] == [200] * 10

    eventually(all_well, 20.0)
    server.process.send(signal.SIGTERM)
    assert server.process.wait(10) == 0


def test_requests_are_answered_although_the_shared_counts_are_gone(
    start_process: Start, folder: Path, broker_url: str, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    server = start_server(start_process, folder, broker_url, {"TMPDIR": str(temporary)})
    (counts,) = temporary.glob("taskstream-web-*")
    shutil.rmtree(counts)
    assert {server.post(READING).status for _ in range(20)} == {200}
    victim = next(process.pid for process in server.process.family() if process.pid != server.process.pid)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: [server.post(READING).status for _ in range(10)] == [200] * 10, 20.0)
    eventually(lambda: len(server.process.family()) == 3, 20.0)
    assert server.ask("GET", "/metrics").status == 200
    server.process.send(signal.SIGTERM)
    assert server.process.wait(10) == 0


def one_line(process: Started) -> str:
    """The only line a process printed before it ended with status 2."""
    assert process.wait(60) == 2, process.output
    (line,) = process.output.splitlines()
    return line


def test_a_port_in_use_is_one_line(start_process: Start, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"TASKSTREAM_BROKER": "redis://127.0.0.1:1"}
        line = one_line(start_process(web_command(port=port), cwd=folder, env=env))
    assert str(port) in line and "--port" in line


def test_a_second_server_does_not_share_the_port(start_process: Start, folder: Path, broker_url: str) -> None:
    first = start_server(start_process, folder, broker_url)
    env = {"TASKSTREAM_BROKER": broker_url}
    assert str(first.port) in one_line(start_process(web_command(port=first.port), cwd=folder, env=env))
    assert first.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"config_files": "missing.json"}, "missing.json"),
        ({"host": "0.0.0.0"}, "TASKSTREAM_AUTH_TOKEN"),
        ({"host": "no.such.host.invalid"}, "no.such.host.invalid"),
        ({"broker_url": "http://somewhere"}, "broker URL"),
        ({"app": "nothing.here:app", "config_files": None}, "nothing"),
        ({"config_files": None}, "--config-files"),
        ({"port": "abc"}, "--options"),
    ],
)
def test_a_mistake_is_one_line(start_process: Start, folder: Path, options: dict[str, object], expected: str) -> None:
    command = web_command(**{"port": free_port(), **options})
    line = one_line(start_process(command, cwd=folder, env={"TASKSTREAM_BROKER": "redis://127.0.0.1:1"}))
    assert expected in line and line.startswith("taskstream web: ")


def test_a_mistake_in_the_application_is_one_line(start_process: Start, folder: Path) -> None:
    module = folder / "meter" / "take_reading.py"
    module.write_text(module.read_text().replace("from .model import Reading", "from .model import Writing"))
    line = one_line(start_process(web_command(port=free_port()), cwd=folder, env={"TASKSTREAM_BROKER": "redis://x"}))
    assert "take_reading" in line


def test_an_application_that_cannot_start_ends_the_server(start_process: Start, folder: Path) -> None:
    module = folder / "meter" / "take_reading.py"
    module.write_text(module.read_text() + "\ndef __init_event__(context):\n    raise RuntimeError('no such sensor')\n")
    process = start_process(web_command(port=free_port()), cwd=folder, env={"TASKSTREAM_BROKER": "redis://x"})
    assert process.wait(60) == 1
    assert "no such sensor" in process.output
    assert process.family() == []


def test_a_stop_while_it_starts_is_clean(start_process: Start, folder: Path) -> None:
    module = folder / "meter" / "take_reading.py"
    module.write_text("import time, pathlib\npathlib.Path('loading').touch()\ntime.sleep(60)\n" + module.read_text())
    process = start_process(web_command(port=free_port()), cwd=folder, env={"TASKSTREAM_BROKER": "redis://x"})
    eventually((folder / "loading").exists, 30.0)
    process.send(signal.SIGINT, group=True)
    assert process.wait(10) == 0
    assert process.family() == [] and "Traceback" not in process.output


def test_with_a_token_it_listens_anywhere_and_asks_for_it(
    start_process: Start, folder: Path, redis_client: redis.Redis, broker_url: str
) -> None:
    env = {"TASKSTREAM_AUTH_TOKEN": "open-sesame"}
    server = start_server(start_process, folder, broker_url, env, host="0.0.0.0", processes=1)
    assert server.post(READING).status == 401
    assert server.ask("GET", "/").status == 401
    assert server.ask("GET", "/readyz").status == 200
    assert redis_client.exists("readings") == 0
    assert server.post(READING, Authorization="Bearer open-sesame", Host="api.example").status == 200
    assert "open-sesame" not in server.process.output


def test_insecure_listens_anywhere(start_process: Start, folder: Path, broker_url: str) -> None:
    server = start_server(start_process, folder, broker_url, host="0.0.0.0", insecure=True, processes=1)
    assert server.post(READING, Host="box.example:8020").status == 200


def test_the_broker_may_go_away_and_come_back(start_process: Start, folder: Path, own_valkey: OwnServer) -> None:
    server = start_server(start_process, folder, own_valkey.url)
    assert server.post(READING).status == 200
    own_valkey.kill()
    answer = server.post(READING)
    assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
    assert server.ask("GET", "/readyz").status == 503
    assert server.ask("GET", "/healthz").status == 200
    own_valkey.start()
    eventually(lambda: server.post(READING).status == 200, 5.0)
    assert server.ask("GET", "/readyz").status == 200
