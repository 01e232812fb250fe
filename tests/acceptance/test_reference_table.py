"""What the system this one takes over from does badly, case by case: requests, answers, and the control routes.

Streams and failures are in test_reference_failures.py. Of the other cases, a differing OpenAPI file is in
test_cli_run.py, mistakes in the configuration in test_bad_input.py, figures in benchmarks/.
"""

from __future__ import annotations

import json
import re

import pytest
from box import START_S, Box, patience
from helpers import eventually, free_port
from web_app import Answer, WebServer

SUBMIT = "/api/jobs/1x0/submit"
WORK = "/mgmt/jobs/1x0/work"
JSON_TYPE = {"Content-Type": "application/json"}


def check_problem(box: Box, answer: Answer, status: int) -> list[str]:
    """An answer that refuses: problem+json, tracked, without internals. Returns the log's lines about it."""
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status and answer.json["title"] and answer.json["detail"]
    for name in ("x-track-request-id", "x-track-operation-id", "x-track-request-ts"):
        assert answer.headers[name]
    assert "Traceback" not in answer.text and ".py" not in answer.text
    request_id = answer.headers["x-track-request-id"]
    assert answer.json["request_id"] == request_id
    return eventually(lambda: box.lines(request_id), 10.0, "no line in the log")


def published(box: Box) -> int:
    with box.redis() as client:
        return int(client.xinfo_stream("jobs")["entries-added"])


def test_a_clients_request_id_goes_all_the_way(box: Box) -> None:
    answer = box.ask("POST", SUBMIT, {"job": "tracked"}, {"X-Track-Request-Id": "client-4711"})
    assert (answer.status, answer.headers["x-track-request-id"]) == (200, "client-4711")
    assert answer.headers["x-event-app"] == "jobs.1x0"
    box.wait_done(["tracked"])
    outcome = eventually(lambda: box.outcome("client-4711"), patience(5))
    assert (outcome.state, outcome.request_id) == ("SUCCESS", "client-4711")
    events = [re.search(r"jobs 1\.0 (\S+)", line) for line in box.lines("track.request_id=client-4711")]
    assert {found[1] for found in events if found} == {"submit", "work"}


@pytest.mark.parametrize(
    "forged",
    [
        b"x\x85 2026-01-01 00:00:00,000 | ERROR | forged",
        b"x | extra.forged=1",
        b"x\r\n\tforged",
        b"x\x0bforged",
        b"\xe2\x80\xa8forged",
        b"",
        b"forged" * 200,
    ],
)
def test_a_forged_request_id_is_replaced(box: Box, forged: bytes) -> None:
    body = b'{"job": "forged-id"}'
    request = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nX-Track-Request-Id: "
    )
    received = box.web.raw(request.encode() + forged + b"\r\n\r\n" + body, timeout=20.0)
    # Servers may refuse a folded header (RFC 9112, section 5.2) or a control character as a whole
    assert re.match(rb"HTTP/1\.1 (200|400) ", received), received
    if b" 200 " in received[:16]:
        request_id = re.search(rb"(?im)^x-track-request-id: (\S+)\r$", received)
        assert request_id and re.fullmatch(rb"[A-Za-z0-9._:-]{1,128}", request_id[1])
        assert eventually(lambda: box.lines(request_id[1].decode()), 10.0)
    assert not [line for line in box.output.splitlines() if "forged" in line and "forged-id" not in line]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"job": ', None),
        (b'{"job": "\xff\xfe"}', None),
        (b"{}", "job"),
        (b'{"job": 7}', "job"),
        (b'{"job": null}', "job"),
        (b'{"job": "x", "seconds": "1"}', "seconds"),
        (b'{"job": "x", "extra": 1}', "extra"),
        (b"null", None),
        (b'[{"job": "x"}]', None),
        (b"", None),
    ],
)
def test_a_payload_that_does_not_fit(box: Box, body: bytes, field: str | None) -> None:
    before = published(box)
    answer = box.ask("POST", SUBMIT, body)
    lines = check_problem(box, answer, 400)
    assert len(lines) == 1
    if field is not None:
        assert list(answer.json["errors"]) == [field]
    assert published(box) == before


def test_an_unknown_query_argument(box: Box) -> None:
    answer = box.ask("POST", f"{SUBMIT}?verbose=1", {"job": "x"})
    check_problem(box, answer, 400)
    assert "verbose" in answer.json["errors"]


def test_a_handler_that_raises(box: Box) -> None:
    answer = box.submit("x", "refuse")
    lines = check_problem(box, answer, 500)
    assert "internal-secret" not in answer.text
    (failed,) = [line for line in lines if "| FAILED |" in line]
    assert "Traceback" in failed and "RuntimeError" in failed and "internal-secret" in failed
    assert box.submit("after-it").status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", SUBMIT, {"Content-Type": "text/plain"}, 415),
        ("POST", SUBMIT, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("GET", SUBMIT, {}, 405),
        ("DELETE", WORK + "/stop", {}, 405),
        ("POST", "/api/jobs/1x0/nothing", JSON_TYPE, 404),
        ("POST", "/api/jobs/2x0/submit", JSON_TYPE, 404),
        ("POST", "/mgmt/jobs/1x0/nothing/stop", JSON_TYPE, 404),
        ("POST", "/mgmt/jobs/1x0/submit/stop", JSON_TYPE, 404),
        ("POST", WORK + "/pause", JSON_TYPE, 404),
    ],
)
def test_wrong_type_method_or_path(box: Box, method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = box.ask(method, path, b'{"job": "x"}' if method == "POST" else None, headers)
    check_problem(box, answer, status)


def test_two_megabytes_in_any_form(box: Box) -> None:
    before = published(box)
    text = json.dumps({"job": "x" * 2_000_000}).encode()
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(text[at : at + 65536]), text[at : at + 65536]) for at in range(0, len(text), 65536)
    )
    for request in (
        head + b"Content-Length: %d\r\n\r\n" % len(text) + text,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
    ):
        received = box.web.raw(request, timeout=20.0)
        assert received.startswith(b"HTTP/1.1 413 "), received[:200]
        assert b"application/problem+json" in received and b"x-track-request-id" in received.lower()
    assert published(box) == before


def test_stop_and_start_are_idempotent_and_reach_every_process(box: Box) -> None:
    names = {f"{box.processes('pool')[0].pid}.{number}" for number in range(1, len(box.workers()) + 1)}
    for action, state in (("stop", "stopped"), ("stop", "stopped"), ("start", "started"), ("start", "started")):
        answer = box.manage(action)
        assert answer.status == 200
        assert (answer.json["event"], answer.json["state"]) == ("jobs.1x0.work", state)
        assert {worker.partition(".")[2] for worker in answer.json["workers"]} == names


def test_stop_then_start_at_once_leaves_one_reader_each(box: Box) -> None:
    # When the choice goes back and forth, without a pause
    for _ in range(5):
        assert (box.manage("stop").status, box.manage("start").status) == (200, 200)
    # Then each process still has one consumer, and each job is done once
    assert len(box.consumer_names()) == len(box.workers())
    jobs = [f"toggled-{number}" for number in range(40)]
    box.submit_all(jobs)
    box.wait_done(jobs)
    eventually(box.at_rest, patience(5))
    done = box.done()
    assert {done[job] for job in jobs} == {1}
    with box.redis() as client:
        readers = [row for row in client.client_list() if row["cmd"] == "xreadgroup"]
    subscriptions = 2
    assert len(readers) <= subscriptions * len(box.workers())


def test_a_choice_is_obeyed_by_pools_that_start_later(box: Box) -> None:
    # Given an event that was stopped, and a job for it
    assert box.manage("stop").json["state"] == "stopped"
    box.submit_all(["kept-back"])
    # When another pool starts
    more = box.launch("worker", "--config-files=server.json,config.json", "--processes", "1", "-n", "second")
    try:
        eventually(lambda: "Worker starts" in more.output, START_S, lambda: more.output)

        def known() -> Answer | None:
            answer = box.ask("POST", WORK + "/stop")
            return answer if len(answer.json["workers"]) == len(box.workers()) > 1 else None

        # Then it is named, obeys
        stopped = eventually(known, START_S, lambda: more.output)
        assert any(worker.startswith("second.") for worker in stopped.json["workers"])
        assert not box.effects("kept-back")
        # And goes on with the others
        started = box.manage("start")
        assert len(started.json["workers"]) == len(box.workers())
        box.wait_done(["kept-back"])
        # And its own end takes nothing along
        box.stop(more)
    finally:
        more.remove()
    assert len(eventually(lambda: box.manage("start").json["workers"], 10.0)) == len(box.workers())


def test_mgmt_without_the_token(box: Box) -> None:
    # Given a second web server on the same broker, with a token
    port = free_port()
    box.env["TASKSTREAM_AUTH_TOKEN"] = "open-sesame"
    web = box.launch("web", "--config-files=server.json,config.json", "--port", str(port))
    try:
        server = WebServer(web, port)
        eventually(lambda: server.ask("GET", "/healthz").status == 200, START_S, lambda: web.output)
        # When it is asked to stop an event without it, or with another one
        for headers in ({}, {"Authorization": "Bearer open-sesam"}, {"Authorization": "Basic open-sesame"}):
            for method in ("GET", "POST"):
                answer = server.ask(method, WORK + "/stop", headers=headers)
                # Then it does not
                check_problem(box, answer, 401)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        assert box.ask("GET", "/").status == 200
        with box.redis() as client:
            assert client.hget("ts:{jobs}:control:workers", "state") != b"stopped"
        # And with it, it does
        authorized = {"Authorization": "Bearer open-sesame"}
        assert server.ask("POST", WORK + "/stop", headers=authorized).json["state"] == "stopped"
        assert server.ask("POST", WORK + "/start", headers=authorized).json["state"] == "started"
    finally:
        del box.env["TASKSTREAM_AUTH_TOKEN"]
        web.remove()
