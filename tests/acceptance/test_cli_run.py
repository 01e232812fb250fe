"""`taskstream run`, `worker`, `control`, `result` and `openapi` with real processes and a broker of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from helpers import OwnServer, Started, eventually, free_port
from shop import LABEL, billed, order, write_shop

START_S = 60.0
"""Bound for a start on a busy machine."""

StartCli = Callable[..., Started]
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]

TASKS = """
from taskstream import Taskstream

app = Taskstream("toys", results="file://results")

@app.task
def double(number: int) -> int:
    return 2 * number

@app.task(queue="other")
def triple(number: int) -> int:
    return 3 * number
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def shop(tmp_path: Path, broker_url: str) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    write_shop(folder, broker_url)
    return folder


def run_arguments(port: int, *more: str) -> list[str]:
    return ["run", "--config-files=server.json,config.json", "--port", str(port), *more]


def started_run(start_cli: StartCli, shop: Path, port: int, *more: str) -> Started:
    """A running `taskstream run` whose web server and workers are there."""
    run = start_cli(*run_arguments(port, *more), cwd=shop)

    def up() -> bool:
        assert run.process.poll() is None, run.output
        return order(port, f"probe-{time.monotonic_ns()}") and run.output.count("Worker starts") >= 2

    eventually(up, START_S, run.output)
    return run


def test_streams_wait_until_started_and_the_choice_survives(
    shop: Path, port: int, start_cli: StartCli, run_cli: RunCli
) -> None:
    # Given a box whose streams were not started, and an order
    run = started_run(start_cli, shop, port)
    assert "bill waits (no --start-streams); to change: taskstream control start bill" in run.output
    assert order(port, "early")
    queues = json.loads(run_cli("queues", "--json", cwd=shop).stdout)
    assert queues[0]["groups"] == [] or queues[0]["groups"][0]["waiting"] >= 1
    assert not billed(shop, "early")
    # When it is started through the control channel
    begun = run_cli("control", "start", "bill", "--json", cwd=shop)
    # Then every worker says so, and the order is billed
    assert begun.returncode == 0, begun.stderr
    answer = json.loads(begun.stdout)
    assert (answer["event"], answer["state"], len(answer["workers"])) == (LABEL, "started", 2)
    eventually(lambda: billed(shop, "early"))
    # When it is stopped, twice, and five orders come
    for _ in range(2):
        ended = run_cli("control", "stop", "bill", cwd=shop)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith(f"{LABEL}: stopped\n") and ended.stdout.count("has stopped it") == 2
    items = [f"late-{number}" for number in range(5)]
    assert all(order(port, item) for item in items)
    # And everything is started again, asking for started streams
    run.send(signal.SIGTERM)
    assert run.wait() == 0, run.output
    assert run.family() == []
    again = started_run(start_cli, shop, port, "--start-streams")
    # Then the choice made before holds
    assert "bill stopped (chosen before, wins over --start-streams); to change: taskstream control start bill" in (
        again.output
    )
    assert not any(billed(shop, item) for item in items)
    # And all five are billed once it is started
    assert run_cli("control", "start", "bill", cwd=shop).returncode == 0
    eventually(lambda: all(billed(shop, item) for item in items))
    # When Ctrl-C comes
    again.send(signal.SIGINT, group=True)
    assert again.wait() == 0
    assert again.family() == []


def test_an_api_file_that_differs_starts_nothing(shop: Path, port: int, run_cli: RunCli) -> None:
    # Given the document of the code
    made = run_cli("openapi", "create", "--config-files=server.json,config.json", cwd=shop)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[:2] == ["API Version: 1.0", "API Title: Shop App"]
    document = json.loads((shop / "openapi.json").read_bytes())
    assert "/api/shop-app/1x0/order" in document["paths"]
    same = run_cli("openapi", "diff", cwd=shop)
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "openapi.json and the code agree")
    # When the code changes
    model = shop / "shop_app" / "model.py"
    model.write_text(model.read_text() + "    amount: int = 1\n")
    # Then diff lists it
    other = run_cli("openapi", "diff", cwd=shop)
    assert other.returncode == 1
    assert re.search(
        r"^/components/schemas/\S*Order\S*/properties/amount: only in the code$", other.stdout, re.MULTILINE
    )
    # And run refuses to start, saying what differs
    run = run_cli(*run_arguments(port, "--api-file=openapi.json"), cwd=shop)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith("taskstream: openapi.json differs from the code, so nothing was started: /components/")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"streams": {"conection_str": "redis://h"}}, "server.json: streams.conection_str: unknown key"),
        ({"streams": {"connection_str": "http://h"}}, "broker URL 'http://h' cannot be used"),
        ({}, "no broker: pass --broker"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_line(
    shop: Path, port: int, run_cli: RunCli, change: dict[str, object], text: str
) -> None:
    (shop / "server.json").write_text(json.dumps(change))
    run = run_cli(*run_arguments(port), cwd=shop)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert text in run.stderr


def test_a_box_waits_for_its_broker(tmp_path: Path, port: int, own_valkey: OwnServer, start_cli: StartCli) -> None:
    # Given a broker that is away at the start
    write_shop(tmp_path, own_valkey.url)
    own_valkey.stop()
    run = start_cli(*run_arguments(port, "--start-streams"), cwd=tmp_path)
    eventually(lambda: "start/stop choices hold once it is there" in run.output, START_S)
    # When it comes
    own_valkey.start()
    # Then work flows
    eventually(lambda: order(port, "there"), START_S, run.output)
    eventually(lambda: billed(tmp_path, "there"), START_S, run.output)
    run.send(signal.SIGTERM)
    assert run.wait() == 0
    assert run.family() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_pool_works_off_its_queues_and_stops_cleanly(
    tmp_path: Path,
    broker_url: str,
    redis_client: redis.Redis,
    start_cli: StartCli,
    run_cli: RunCli,
    number: signal.Signals,
) -> None:
    # Given tasks in two queues
    (tmp_path / "toys.py").write_text(TASKS)
    env = {"TASKSTREAM_BROKER": broker_url}
    code = "import toys; print(toys.double.delay(21).id, toys.triple.delay(14).id)"
    sent = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    doubled, tripled = sent.stdout.split()
    # When a pool works off one of them
    pool = start_cli("worker", "-A", "toys:app", "-Q", "toys", "--processes", "1", "-n", "box", cwd=tmp_path, env=env)
    shown = eventually(lambda: found(run_cli("result", doubled, "-A", "toys:app", cwd=tmp_path)), START_S, pool.output)
    # Then that one's outcome can be seen, and the other task waits
    assert re.search(r"^value +42$", shown, re.MULTILINE)
    waits = run_cli("result", tripled, "-A", "toys:app", cwd=tmp_path)
    assert (waits.returncode, waits.stdout) == (1, "")
    assert waits.stderr.splitlines()[-1].startswith(f"taskstream: no outcome of '{tripled}' yet")
    assert redis_client.xlen("other") == 1
    # And the pool answers by its name
    assert f"taskstream: broker {broker_url} (TASKSTREAM_BROKER)" in pool.output
    ping = run_cli("control", "ping", "--worker", "box*", cwd=tmp_path, env=env)
    assert (ping.returncode, ping.stdout.count("answered")) == (0, 1)
    assert ping.stdout.startswith("box")
    stats = json.loads(run_cli("control", "stats", "--json", cwd=tmp_path, env=env).stdout)
    assert stats[0]["result"]["processed"] == 1
    # When it is stopped
    pool.send(number)
    assert pool.wait() == 0, pool.output
    # Then nothing is left of it, neither process nor entry
    assert pool.family() == []
    silent = run_cli("control", "ping", cwd=tmp_path, env=env)
    assert (silent.returncode, silent.stderr.splitlines()[-1]) == (1, "taskstream: no worker answered")


def test_a_broker_that_is_away_is_one_line_in_time(own_valkey: OwnServer, run_cli: RunCli) -> None:
    url = own_valkey.url
    own_valkey.stop()
    for command in (["queues"], ["workers"], ["control", "ping"], ["control", "stop", "x"]):
        begun = time.monotonic()
        done = run_cli(*command, "--broker", url)
        assert (done.returncode, done.stdout) == (1, ""), command
        said, failed = done.stderr.splitlines()
        assert said == f"taskstream: broker {url} (--broker)"
        assert failed.startswith(f"taskstream: broker {url} ")
        assert time.monotonic() - begun < 20.0


def test_an_unknown_event_names_the_known_ones(shop: Path, run_cli: RunCli) -> None:
    done = run_cli("control", "stop", "bil", cwd=shop)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (f"taskstream: no event or queue 'bil'; did you mean 'bill'? known: {LABEL}")
    # And the configuration's own is known before any worker ran
    chosen = run_cli("control", "stop", "bill", cwd=shop)
    assert (chosen.returncode, chosen.stdout) == (
        0,
        f"{LABEL}: stopped\n  no live worker consumes it; those that start later obey\n",
    )


def found(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed, empty if it failed."""
    return done.stdout if done.returncode == 0 else ""


def test_a_pool_says_which_broker_its_code_names(
    tmp_path: Path, broker_url: str, start_cli: StartCli, run_cli: RunCli
) -> None:
    # Given code that names its broker
    (tmp_path / "toys.py").write_text(TASKS.replace('Taskstream("toys"', f'Taskstream("toys", broker="{broker_url}"'))
    # When a pool works it off, then it says so once, as soon as it has loaded the code
    pool = start_cli("worker", "-A", "toys:app", "--processes", "2", cwd=tmp_path)
    said = f"taskstream: broker {broker_url} (said by toys:app)\n"
    eventually(lambda: said in pool.output and pool.output.count("Worker starts") == 2, START_S, lambda: pool.output)
    pool.send(signal.SIGTERM)
    assert (pool.wait(), pool.output.count(said)) == (0, 1)
    # And where nothing names one, that is one line
    (tmp_path / "toys.py").write_text(TASKS)
    done = run_cli("worker", "-A", "toys:app", "--processes", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("taskstream: app toys has no broker: give one with ")
