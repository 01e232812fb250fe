"""`taskstream dev` with real processes: everything in one, reload, and nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Started, alive, eventually, free_port
from shop import LABEL, billed, edit, order, write_shop

from taskstream.embedded import running_broker_url

START_S = 60.0
"""Bound for a start on a busy machine."""

StartCli = Callable[..., Started]
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    write_shop(folder)
    return folder


@pytest.fixture
def dev(shop: Path, port: int, start_cli: StartCli) -> Started:
    """A running `taskstream dev` that has billed one order."""
    started = start_cli("dev", "--port", str(port), cwd=shop)
    eventually(lambda: started.process.poll() is not None or order(port, "first-order"), START_S, started.output)
    eventually(lambda: billed(shop, "first-order") == "first", START_S, started.output)
    return started


def pids(started: Started) -> list[int]:
    return [process.pid for process in started.family()]


def test_from_post_to_result_and_a_clean_end(dev: Started, shop: Path, port: int, run_cli: RunCli) -> None:
    # Then it said where everything is
    broker = running_broker_url(shop)
    assert broker is not None
    for text in (f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/api/docs", broker, str(shop / "results")):
        assert text in dev.output
    # And other commands in the folder find its broker, and say so
    queues = run_cli("queues", "--json", cwd=shop)
    assert queues.stderr == f"taskstream: broker {broker} (the running `taskstream dev` of this folder)\n"
    (stream,) = json.loads(queues.stdout)
    assert (stream["name"], stream["groups"][0]["label"]) == ("orders", LABEL)
    workers = json.loads(run_cli("workers", "--json", cwd=shop).stdout)
    assert {worker["subscriptions"][0]["label"] for worker in workers} == {LABEL}
    # And the outcome is on disk
    message_id = eventually(lambda: re.search(r"DONE .*message\.id=(\S+)", dev.output))[1]
    shown = run_cli("result", message_id, cwd=shop)
    assert shown.returncode == 0, shown.stderr
    place = f"file://{shop / 'results'}"
    assert shown.stderr == f"taskstream: results {place} (the running `taskstream dev` of this folder)\n"
    assert re.search(r"^state +SUCCESS$", shown.stdout, re.MULTILINE)
    assert re.search(r'^value +"first first-order"$', shown.stdout, re.MULTILINE)
    (outcome,) = json.loads(run_cli("result", message_id, "--json", cwd=shop).stdout)
    assert (outcome["state"], outcome["group"], outcome["value"]) == ("SUCCESS", "billing", "first first-order")
    # And a second one in the folder says so
    second = run_cli("dev", "--port", str(free_port()), cwd=shop)
    assert second.returncode == 2
    assert re.fullmatch(r"taskstream: an embedded broker runs in \S+ already .*\n", second.stderr)
    # When Ctrl-C goes to the whole foreground process group
    before = pids(dev)
    dev.send(signal.SIGINT, group=True)
    # Then everything ends, cleanly
    assert dev.wait() == 0, dev.output
    assert dev.family() == []
    assert not any(alive(pid) for pid in before)
    assert running_broker_url(shop) is None
    assert "Traceback" not in dev.output


def test_edits_are_taken_up_and_broken_ones_waited_out(dev: Started, shop: Path, port: int) -> None:
    # When the code changes
    edit(shop, "second")
    eventually(lambda: "starting web server and workers anew" in dev.output, START_S)
    # Then the new code handles what comes
    eventually(lambda: order(port, "after-edit"), START_S, dev.output)
    eventually(lambda: billed(shop, "after-edit") == "second", START_S)
    eventually(lambda: order(port, "web-is-back"), START_S, dev.output)
    # When it is broken
    (shop / "shop_app" / "bill.py").write_text("def bill(:\n")
    eventually(lambda: "the code from before goes on" in dev.output, START_S)
    # Then one line says so, and what ran goes on
    lines = [line for line in dev.output.splitlines() if "the code from before goes on" in line]
    assert len(lines) == 1 and "SyntaxError" in lines[0] and "bill.py" in lines[0]
    assert "Traceback" not in dev.output
    assert order(port, "while-broken")
    eventually(lambda: billed(shop, "while-broken") == "second", START_S)
    # And the next good edit is taken up
    edit(shop, "third")
    eventually(lambda: dev.output.count("starting web server and workers anew") == 2, START_S)
    eventually(lambda: order(port, "repaired"), START_S)
    eventually(lambda: billed(shop, "repaired") == "third", START_S)


def test_killed_parent_leaves_no_process(dev: Started) -> None:
    # Given every kind of process there is
    commands = [" ".join(process.cmdline()) for process in dev.family()]
    for kind in ("taskstream_worker", "taskstream_webapp", "valkey-server"):
        assert any(kind in command for command in commands), commands
    before = pids(dev)
    # When the parent is killed, which can stop nobody then
    dev.process.kill()
    # Then all of them end
    eventually(lambda: not any(alive(pid) for pid in before), 30.0)


def test_a_dead_pool_is_started_again_and_queued_work_survives_a_restart(
    dev: Started, shop: Path, port: int, start_cli: StartCli
) -> None:
    # Given a pool that is killed
    pool = next(
        process for process in dev.family() if "taskstream_worker" in process.cmdline() and "pool" in process.cmdline()
    )
    pool.kill()
    # Then it is started again and goes on
    eventually(lambda: "the worker pool ended by SIGKILL; starting it again" in dev.output, START_S)
    assert order(port, "after-kill")
    eventually(lambda: billed(shop, "after-kill"), START_S)
    # Given an order that nobody can bill, and a stop
    for process in dev.family():
        if any("taskstream_worker" in argument for argument in process.cmdline()):
            process.suspend()
    assert order(port, "kept")
    assert not billed(shop, "kept")
    for process in dev.family():
        process.kill()
    dev.wait()
    # When it is started again
    again = start_cli("dev", "--port", str(port), cwd=shop)
    # Then it is billed
    eventually(lambda: billed(shop, "kept"), START_S, again.output)
    eventually(lambda: order(port, "next"), START_S, again.output)
    again.send(signal.SIGTERM)
    assert again.wait() == 0
    assert again.family() == []


def test_nothing_configured_is_one_line(tmp_path: Path, run_cli: RunCli) -> None:
    done = run_cli("dev", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("taskstream: nothing to run: no config.json in ")
    assert done.stderr.count("\n") == 1


def test_broken_code_at_the_start_is_one_line_and_starts_nothing(shop: Path, run_cli: RunCli) -> None:
    (shop / "shop_app" / "bill.py").write_text("import no_such_module\n")
    done = run_cli("dev", cwd=shop)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no_such_module" in done.stderr
    assert not (shop / ".taskstream").exists()


def test_a_port_that_is_taken_is_one_line(shop: Path, port: int, run_cli: RunCli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        done = run_cli("dev", "--port", str(port), cwd=shop)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in done.stderr


def test_a_named_broker_is_used_and_none_embedded(shop: Path, port: int, broker_url: str, start_cli: StartCli) -> None:
    # Given a broker in the environment
    dev = start_cli("dev", "--port", str(port), cwd=shop, env={"TASKSTREAM_BROKER": broker_url})
    eventually(lambda: order(port, "there"), START_S, dev.output)
    eventually(lambda: billed(shop, "there"), START_S, dev.output)
    assert f"taskstream: broker {broker_url} (TASKSTREAM_BROKER)" in dev.output
    # Then there is no server among its processes
    assert not [one for one in dev.family() if "valkey" in one.name()]
    assert not (shop / ".taskstream").exists()
    # When its terminal goes away, it ends as well
    dev.send(signal.SIGHUP)
    assert dev.wait() == 0
    assert dev.family() == []
