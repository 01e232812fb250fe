"""What a running pool makes of messages: one pool on a server of its own for all of these."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import OwnServer, Started, eventually, taskstream_command
from jobs import Jobs

from taskstream.control import Control
from taskstream.handler import QUEUE_GROUP
from taskstream.message import from_fields_json


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """The app with a running pool of one process, ten messages at a time."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "valkey").mkdir()
    server = OwnServer(folder / "valkey")

    def start(*arguments: str, cwd: Path, env: dict[str, str]) -> Started:
        return Started(taskstream_command(*arguments), cwd=cwd, env={**os.environ, **env}, output=folder / "output")

    jobs = Jobs(folder, server.url, start)
    pool = jobs.pool()
    yield jobs
    pool.remove()
    jobs.broker.close()
    server.stop()


@pytest.fixture(autouse=True)
def _nothing_left(jobs: Jobs) -> Iterator[None]:
    """Each test leaves the queue empty, and the same process running."""
    before = jobs.running()[0]
    yield
    jobs.settled(dead=0)
    assert jobs.broker.stream_length("jobs") == 0
    assert [worker["pid"] for worker in jobs.broker.workers()] == [before["pid"]], "the process did not survive"


def drop_letters(jobs: Jobs, *ids: str) -> list[dict[str, Any]]:
    """Look at dead letters and remove them."""
    eventually(lambda: jobs.state.dead == len(ids))
    letters = jobs.letters()
    jobs.broker.client.delete(f"ts:{{jobs}}:letters:{QUEUE_GROUP}", f"ts:{{jobs}}:dead:{QUEUE_GROUP}")
    assert {key.decode() for key in letters} == set(ids)
    return [json.loads(letters[one.encode()]) for one in ids]


@pytest.mark.parametrize("task", ["add", "add_later"])
def test_a_call_runs_and_its_result_is_on_disk(jobs: Jobs, task: str) -> None:
    sent = time.time() * 1000
    outcome = jobs.outcome(jobs.send(task, 2, 3, headers={"request_id": "r-1"}))
    assert (outcome.state, bytes(outcome.value), outcome.error) == ("SUCCESS", b"5", None)
    assert (outcome.delivery, outcome.attempts, outcome.handler) == (1, 1, f"jobs.{task}")
    assert (outcome.group, outcome.request_id) == (QUEUE_GROUP, "r-1")
    assert sent - 1000 <= outcome.sent_ms <= outcome.started_ms <= outcome.finished_ms <= time.time() * 1000
    assert outcome.worker == jobs.running()[0]["name"]


def test_many_calls_run_once_each(jobs: Jobs) -> None:
    ids = [jobs.send("add", n, 1000) for n in range(300)]
    assert [int(bytes(jobs.outcome(one).value)) for one in ids] == [n + 1000 for n in range(300)]
    assert all(len(jobs.runs("add", str(n), "1000")) == 1 for n in range(300))


def test_a_failed_call_is_tried_again(jobs: Jobs) -> None:
    outcome = jobs.outcome(jobs.send("flaky", "k"))
    assert (outcome.state, bytes(outcome.value), outcome.attempts, outcome.delivery) == ("SUCCESS", b'"k"', 2, 2)
    assert len(jobs.runs("flaky", "k")) == 2


def test_after_the_last_try_it_is_a_dead_letter(jobs: Jobs) -> None:
    one = jobs.send("broken", "x")
    outcome = jobs.outcome(one)
    assert (outcome.state, outcome.attempts, outcome.delivery) == ("FAILURE", 3, 3)
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("ValueError", "ü x")
    assert "in broken" in outcome.error.traceback
    (letter,) = drop_letters(jobs, one)
    assert (letter["attempts"], letter["deliveries"], letter["deaths"]) == (3, 3, 0)
    assert letter["error"]["message"] == "ü x"
    assert from_fields_json(json.dumps(letter["fields"])).id == one
    assert len(jobs.runs("broken", "x")) == 3


@pytest.mark.parametrize("task", ["endless", "endless_later"])
def test_a_call_that_takes_too_long_is_ended(jobs: Jobs, task: str) -> None:
    started = time.monotonic()
    one = jobs.send(task)
    outcome = jobs.outcome(one)
    assert time.monotonic() - started < 10
    assert outcome.state == "FAILURE" and outcome.error is not None
    assert outcome.error.type == "TimeLimitExceeded" and "0.2 s" in outcome.error.message
    assert jobs.runs("swallowed") == []
    drop_letters(jobs, one)
    # More than there are lanes: none of them is lost by it
    ids = [jobs.send("add", n, 2000) for n in range(20)]
    assert all(jobs.outcome(one).state == "SUCCESS" for one in ids)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("exit", "SystemExit", "3"),
        ("base", "BaseException", "base"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("killed", "GreenletExit", ""),
        ("generator", "GeneratorExit", ""),
        ("nasty", "Nasty", "(its text cannot be had: RuntimeError)"),
        ("surrogate", "ValueError", "\\ud800"),
        ("syntax", "SyntaxError", "m (file, line 1)"),
    ],
)
def test_whatever_a_handler_raises_is_a_failure_of_its_message_only(
    jobs: Jobs, how: str, kind: str, message: str
) -> None:
    ids = [jobs.send("fails", how) for _ in range(12)]
    for one in ids:
        error = jobs.outcome(one).error
        assert error is not None and (error.type, error.message) == (kind, message)
    drop_letters(jobs, *ids)
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"


def test_a_value_that_json_cannot_carry_is_a_failure(jobs: Jobs) -> None:
    one = jobs.send("unfit")
    error = jobs.outcome(one).error
    assert error is not None and "JSON" in error.message
    drop_letters(jobs, one)


def test_arguments_that_do_not_fit_are_never_tried_again(jobs: Jobs) -> None:
    one = jobs.send("flaky", 5)
    outcome = jobs.outcome(one)
    assert outcome.attempts == 1 and outcome.error is not None and outcome.error.type == "InvalidMessage"
    drop_letters(jobs, one)


def test_an_ignored_result_keeps_no_value(jobs: Jobs) -> None:
    outcome = jobs.outcome(jobs.send("silent"))
    assert (outcome.state, bytes(outcome.value)) == ("SUCCESS", b"null")


def test_context_variables_do_not_leak_from_one_message_to_the_next(jobs: Jobs) -> None:
    ids = [jobs.send("context", str(n)) for n in range(60)]
    assert {bytes(jobs.outcome(one).value) for one in ids} == {b"null"}


UNREADABLE: dict[str, list[bytes]] = {
    "foreign fields": [b"hello", b"world"],
    "another version": [b"v", b"9", b"id", b"m", b"name", b"jobs.add", b"body", b"{}"],
    "an id that is no text": [b"v", b"1", b"id", b"\xff", b"name", b"jobs.add", b"body", b"{}"],
    "a body that is no text": [b"v", b"1", b"id", b"m", b"name", b"jobs.add", b"body", b"\xff"],
    "headers without end": [
        *(b"v", b"1", b"id", b"m", b"name", b"jobs.add", b"body", b"{}"),
        *(b"headers", b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}"),
    ],
}


@pytest.mark.parametrize("fields", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_entry_is_a_dead_letter_and_the_stream_goes_on(jobs: Jobs, fields: list[bytes]) -> None:
    entry = jobs.broker.call("XADD", "jobs", "*", *fields).decode()
    after = jobs.send("add", 7, 7)
    assert jobs.outcome(after).state == "SUCCESS"
    (letter,) = drop_letters(jobs, f"entry-{entry}")
    assert letter["error"]["type"] == "InvalidMessage"
    assert letter["fields"] == [field.decode(errors="backslashreplace") for field in fields]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"args":5}', b'"\xc3\xbc"', b"[" * 99_999, b'{"args":[1e400,1]}'])
def test_a_body_that_no_handler_can_read_is_a_dead_letter(jobs: Jobs, body: bytes) -> None:
    jobs.broker.call("XADD", "jobs", "*", "v", "1", "id", "odd-body", "name", "jobs.add", "body", body)
    (letter,) = drop_letters(jobs, "odd-body")
    assert letter["error"]["type"] == "InvalidMessage" and letter["attempts"] == 1


def test_an_unknown_name_is_put_back_for_others(jobs: Jobs) -> None:
    one = jobs.send("not_yet", 1)
    jobs.settled(delayed=1)
    now = jobs.broker.now_ms()
    delayed = f"ts:{{jobs}}:delayed:{QUEUE_GROUP}"
    ((member, due),) = jobs.broker.client.zrange(delayed, 0, -1, withscores=True)  # type: ignore[misc]
    assert jobs.broker.client.zrem(delayed, member) == 1
    message = from_fields_json(member)
    assert (message.id, message.name, message.attempt) == (one, "jobs.not_yet", 1)
    assert now - 1000 < due <= now + 4000
    assert message.headers is not None
    (count,) = message.headers.values()
    # The last time it is a dead letter
    jobs.broker.publish("jobs", type(message)(one, message.name, message.body, {**message.headers, "ts-unknown": 12}))
    assert count >= 1
    (letter,) = drop_letters(jobs, one)
    assert letter["error"]["type"] == "UnknownHandler" and "jobs.not_yet" in letter["error"]["message"]


def test_stopped_consumes_nothing_and_started_everything(jobs: Jobs) -> None:
    control = Control(jobs.broker)
    (reply,) = control.set_state("jobs", QUEUE_GROUP, "stopped", 5.0)
    assert reply.ok and reply.result == {"label": "jobs", "state": "stopped"}
    ids = [jobs.send("add", n, 3000) for n in range(5)]
    # Two of the worker's own clocks pass
    for _ in range(2):
        rows = control.request("stats", timeout=5.0)
        assert rows[0].result["subscriptions"][0]["state"] == "stopped"
        time.sleep(0.6)
    assert (jobs.state.waiting, jobs.state.held, jobs.state.state) == (5, 0, "stopped")
    assert not any(jobs.found(one) for one in ids)
    # The same again changes nothing
    assert control.set_state("jobs", QUEUE_GROUP, "stopped", 5.0)[0].ok
    assert control.set_state("jobs", QUEUE_GROUP, "started", 5.0)[0].ok
    assert [jobs.outcome(one).state for one in ids] == ["SUCCESS"] * 5
    assert all(len(jobs.runs("add", str(n), "3000")) == 1 for n in range(5))


def test_a_choice_whose_announcement_was_lost_is_obeyed_with_the_next_renewal(jobs: Jobs) -> None:
    jobs.broker.set_state("jobs", QUEUE_GROUP, "stopped")
    eventually(lambda: "stopped" in str(Control(jobs.broker).request("stats", timeout=5.0)[0].result["subscriptions"]))
    one = jobs.send("add", 1, 4000)
    jobs.broker.set_state("jobs", QUEUE_GROUP, "started")
    assert jobs.outcome(one).state == "SUCCESS"


def test_stopping_lets_what_runs_finish(jobs: Jobs) -> None:
    ids = [jobs.send("slow", f"s{n}") for n in range(12)]
    eventually(lambda: sum(len(jobs.runs("start", f"s{n}")) for n in range(12)) == 10)
    control = Control(jobs.broker)
    assert control.set_state("jobs", QUEUE_GROUP, "stopped", 5.0)[0].ok
    jobs.go(*(f"s{n}" for n in range(12)))
    eventually(lambda: sum(jobs.found(one) is not None for one in ids) == 10)
    jobs.settled(waiting=2)
    assert control.set_state("jobs", QUEUE_GROUP, "started", 5.0)[0].ok
    assert [jobs.outcome(one).state for one in ids] == ["SUCCESS"] * 12
    assert all(len(jobs.runs("start", f"s{n}")) == 1 for n in range(12))


def test_a_worker_says_what_it_does(jobs: Jobs) -> None:
    before = Control(jobs.broker).request("stats", timeout=5.0)[0].result
    one, two = jobs.send("add", 0, 0), jobs.send("fails", "exit")
    jobs.outcome(one)
    jobs.outcome(two)
    drop_letters(jobs, two)
    after = Control(jobs.broker).request("stats", timeout=5.0)[0].result
    assert (after["processed"], after["failed"]) == (before["processed"] + 2, before["failed"] + 1)
    assert (after["state"], after["reason"], after["concurrency"]) == ("running", None, 10)
    (subscription,) = after["subscriptions"]
    assert (subscription["label"], subscription["stream"], subscription["group"]) == ("jobs", "jobs", QUEUE_GROUP)
