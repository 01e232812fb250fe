"""What the system this one takes over from does badly, case by case: failing and slow handlers, deaths, outages."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
from box import START_S, Box, patience
from helpers import OwnServer, eventually

from taskstream.broker import Broker
from taskstream.message import Message, new_id

LEASE_S = 6.0
"""What a pool's lease is unless said otherwise."""


def message(job: str) -> Message:
    return Message(new_id(), "Job", b'{"job": "%s"}' % job.encode())


def test_a_handler_that_raises_is_tried_again_with_backoff(box: Box) -> None:
    answer = box.submit("second-try", "fail", failures=1)
    box.wait_done(["second-try"])
    # Then the second run was the good one, after a delay that is in the log
    assert [one.attempt for one in box.effects("second-try", "begin")] == [1, 2]
    (line,) = box.lines("FAILED, will be tried again | stream.name=jobs")
    delay = re.search(r"retry\.delay=([0-9.e-]+)", line)
    assert delay and 0 <= float(delay[1]) <= 0.4
    first, second = box.effects("second-try", "begin")
    assert second.at - first.at >= float(delay[1]) - 0.01
    assert "second-try was made to fail" in line and "Traceback" in line
    # And the outcome says so
    outcome = eventually(lambda: box.outcome(answer.headers["x-track-request-id"]), patience(5))
    assert (outcome.state, outcome.attempts) == ("SUCCESS", 2)
    eventually(box.at_rest, patience(5))


def test_what_fails_for_good_becomes_a_dead_letter_with_its_error(box: Box) -> None:
    answer = box.submit("hopeless", "fail", failures=99)
    request_id = answer.headers["x-track-request-id"]
    outcome = eventually(lambda: box.outcome(request_id), patience(15), lambda: box.output)
    # Then it ran three times, the message is kept with its error, and nothing of it stays pending
    assert [one.attempt for one in box.effects("hopeless", "begin")] == [1, 2, 3]
    assert outcome.state == "FAILURE"
    letter = eventually(lambda: box.letters().get(outcome.id), patience(5))
    assert letter["error"]["type"] == "RuntimeError" and letter["attempts"] == 3
    assert letter["error"]["message"] == "hopeless was made to fail"
    assert "Traceback" in letter["error"]["traceback"]
    assert box.lines("| FAILED |")[-1].count(f"track.request_id={request_id}") == 1
    eventually(box.at_rest, patience(5))


def test_a_handler_that_takes_too_long_is_tried_again_then_a_dead_letter(box: Box) -> None:
    # When a job sleeps for a minute where half a second is allowed
    answer = box.submit("too-long", "sleep", "submit-urgent", seconds=60)
    assert answer.status == 200
    others = [f"in-time-{number}" for number in range(10)]
    for job in others:
        assert box.submit(job, event="submit-urgent").status == 200
    # Then others go on, and it ends as a dead letter after its second time limit
    box.wait_done(others, 5)
    request_id = answer.headers["x-track-request-id"]
    outcome = eventually(lambda: box.outcome(request_id, "work-urgent"), patience(10), lambda: box.output)
    assert [one.attempt for one in box.effects("too-long")] == [1, 2]
    letter = eventually(lambda: box.letters("urgent-jobs").get(outcome.id), patience(5))
    assert letter["error"]["type"] == "TimeLimitExceeded" and "0.5 s" in letter["error"]["message"]
    eventually(lambda: box.at_rest("urgent-jobs"), patience(5))


def test_a_slow_handler_delays_nobody(box: Box) -> None:
    # Given one that sleeps
    box.submit_all(["slow"], "sleep", seconds=4.0)
    eventually(lambda: box.effects("slow", "begin"), patience(5))
    # When many others come
    quick = [f"quick-{number}" for number in range(30)]
    box.submit_all(quick)
    box.wait_done([*quick, "slow"])
    # Then they were done while it slept
    (slow,) = box.effects("slow", "end")
    assert max(one.at for one in box.effects(step="end") if one.job in quick) < slow.at


def test_time_sleep_is_cooperative(box: Box) -> None:
    # When a hundred jobs sleep a second each, in a few processes
    jobs = [f"sleeper-{number}" for number in range(100)]
    box.submit_all(jobs, "sleep", seconds=1.0)
    # Then the web server answers meanwhile
    assert box.ask("GET", "/healthz").status == 200
    box.wait_done(jobs)
    # And at some moment most of them slept together
    events = sorted((one.at, one.step) for one in box.effects() if one.job in jobs)
    together = most = 0
    for _, step in events:
        together += 1 if step == "begin" else -1
        most = max(most, together)
    assert most > 20


def test_unreadable_entries_become_dead_letters_and_hold_up_nothing(box: Box) -> None:
    workers = {process.pid for process in box.workers()}
    before = set(box.letters())
    good = {"v": "1", "name": "Job", "body": '{"job": "never"}'}
    unreadable: list[dict[str, str | bytes]] = [
        {"hello": "world"},
        {**good},
        {**good, "id": "bad-version", "v": "99"},
        {**good, "id": "bad id | forged"},
        {**good, "id": "bad-headers", "headers": "[]"},
        {**good, "id": "bad-bytes", "body": b"\xff\xfe"},
        {**good, "id": "bad-attempt", "attempt": "none"},
    ]
    unfit: list[dict[str, str | bytes]] = [
        {**good, "id": "bad-json", "body": '{"job": '},
        {**good, "id": "bad-field", "body": '{"jub": "never"}'},
        {**good, "id": "bad-type", "body": '{"job": 7}'},
    ]
    with box.redis() as client:
        for fields in (*unreadable, *unfit):
            client.xadd("jobs", fields)  # type: ignore[arg-type]
    # When good ones come after them
    box.submit_all(["after-garbage"])
    # Then these are handled, and each of the others is a dead letter that says why
    box.wait_done(["after-garbage"])
    expected = len(unreadable) + len(unfit)
    eventually(lambda: len(set(box.letters()) - before) == expected, patience(5), lambda: str(box.letters().keys()))
    for letter_id, letter in box.letters().items():
        if letter_id not in before:
            assert letter["error"]["type"] == "InvalidMessage" and letter["error"]["message"], letter
    assert {"bad-json", "bad-field", "bad-type"} <= set(box.letters())
    assert not box.effects("never")
    eventually(box.at_rest, patience(5))
    assert {process.pid for process in box.workers()} == workers


def test_nothing_unread_is_trimmed(box: Box) -> None:
    # Given consumption that is stopped, and a thousand accepted messages
    assert box.manage("stop").status == 200
    jobs = [f"kept-{number}" for number in range(1000)]
    broker = Broker(box.server.url)
    try:
        broker.publish_many(("jobs", message(job)) for job in jobs[:500])
        broker.publish_many(("jobs", message(job)) for job in jobs[500:])
    finally:
        broker.close()
    # When it starts
    assert box.manage("start").status == 200
    # Then each is done, once, and only then its entry is gone
    box.wait_done(jobs)
    done = box.done()
    assert {done[job] for job in jobs} == {1}
    eventually(box.at_rest, patience(10))


def test_sigkill_during_work_loses_nothing(box: Box) -> None:
    jobs = [f"survivor-{number}" for number in range(150)]
    # Given 150 accepted jobs, some of which run
    box.submit_all(jobs, "sleep", seconds=0.3)
    eventually(lambda: [one for one in box.effects(step="begin") if one.job in jobs], patience(10))
    # When every worker process is killed, and when these were replaced, the supervisor with all its processes
    killed: dict[int, float] = {}

    def kill(processes: list[psutil.Process]) -> None:
        for process in processes:
            process.kill()
            killed[process.pid] = time.time()

    before = box.workers()
    kill(before)
    eventually(lambda: len(box.workers()) == len(before) and not set(before) & set(box.workers()), START_S)
    eventually(lambda: sum(box.done()[job] for job in jobs) >= 50, START_S, lambda: box.output)
    kill([*box.processes("pool"), *box.workers()])
    # Then all are done all the same
    box.wait_done(jobs, START_S)
    eventually(box.at_rest, START_S)
    # And a job was run again only where it was under way in a process that was killed
    ends = {(one.job, one.pid): one.at for one in box.effects(step="end")}
    runs = box.effects(step="begin")
    for job in jobs:
        for run in [one for one in runs if one.job == job][:-1]:
            assert run.pid in killed, run
            assert ends.get((job, run.pid), killed[run.pid]) > killed[run.pid] - patience(1), "acknowledged long ago"
    assert not [letter for letter in box.letters().values() if letter["error"]["type"] == "WorkerDied"]
    # And dead consumers are gone
    eventually(lambda: len(box.consumer_names()) == len(box.workers()), START_S, lambda: str(box.consumer_names()))


def test_an_outage_during_work(box: Box) -> None:
    # Given a job that runs
    answer = box.submit("through-the-outage", "sleep", seconds=2.0)
    eventually(lambda: box.effects("through-the-outage", "begin"), patience(5))
    # When Redis is away for longer than a lease
    box.server.kill()
    gone = time.monotonic()
    # Then a POST is told so, soon
    refused = box.submit("refused")
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert time.monotonic() - gone < patience(5)
    assert box.ask("GET", "/readyz").status == 503
    assert box.ask("GET", "/healthz").status == 200
    # And what runs finishes
    eventually(lambda: box.effects("through-the-outage", "end"), patience(10))
    eventually(lambda: time.monotonic() - gone > LEASE_S + 1.5, 60)
    # When Redis is back
    box.server.start()
    back = time.monotonic()
    # Then a POST is accepted and handled at once
    eventually(lambda: box.submit("back").status == 200, 10.0)
    assert time.monotonic() - back < patience(2)
    eventually(lambda: box.done()["back"], patience(5), lambda: box.output)
    # And what finished meanwhile is committed, without another run
    outcome = eventually(lambda: box.outcome(answer.headers["x-track-request-id"]), patience(10))
    assert (outcome.state, outcome.delivery) == ("SUCCESS", 1)
    eventually(box.at_rest, patience(10))
    assert len(box.effects("through-the-outage", "begin")) == 1


def test_redis_back_empty(box: Box) -> None:
    consumers = len(box.workers())
    with box.redis() as client:
        client.flushall()
        client.script_flush()
    # Then streams and groups are made again, by themselves
    assert box.submit("after-flush").status == 200
    box.wait_done(["after-flush"])
    box.submit_all(["urgent-after-flush"], "quick")
    assert box.submit("urgent-too", event="submit-urgent").status == 200
    box.wait_done(["urgent-after-flush", "urgent-too"])
    eventually(lambda: len(box.consumer_names()) == consumers, patience(5))
    # And start and stop go on working
    eventually(lambda: len(box.manage("stop").json["workers"]) == consumers, patience(10))
    assert len(box.manage("start").json["workers"]) == consumers


def test_from_a_start_without_redis_to_a_clean_stop(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    server = OwnServer(tmp_path / "valkey")
    box = Box("jobs_app", tmp_path / "app", server)
    try:
        # Given a system that was started while Redis was away
        server.stop()
        box.start(ready=False)
        eventually(lambda: box.ask("GET", "/healthz").status == 200, START_S, lambda: box.output)
        refused = box.submit("too-early")
        assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
        assert int(refused.headers["retry-after"]) >= 1
        assert box.ask("GET", "/readyz").status == 503
        eventually(lambda: box.output.count("Broker does not answer") > 0, START_S, lambda: box.output)
        # When Redis comes
        server.start()
        came = time.monotonic()
        # Then it is there within moments
        eventually(lambda: box.submit("first").status == 200, 20.0, lambda: box.output)
        assert time.monotonic() - came < patience(2)
        box.wait_done(["first"])
        # When it is stopped while a job runs
        eventually(lambda: len(box.consumer_names()) == len(box.workers()), START_S)
        box.submit_all(["last"], "sleep", seconds=2.0)
        eventually(lambda: box.effects("last", "begin"), patience(5))
        took = box.stop()
        # Then that finishes, and the end comes as soon as it has
        (begin,), (end,) = box.effects("last", "begin"), box.effects("last", "end")
        assert took < end.at - begin.at + patience(1.5)
        # And nothing is left of it in Redis
        assert box.at_rest() and box.consumer_names() == []
        with box.redis() as client:
            assert not [key for key in client.keys("ts:*") if b":leases:" in key]
            assert not client.zcard("ts:workers")
        assert "Traceback" not in box.output
    finally:
        box.remove()
        server.stop()
