"""``taskstream dead`` against a real server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from letters import BODY, DEAD, STREAM, again, bury, bury_many, letter_json, unreadable_json
from shop import LABEL, write_shop

from taskstream import keys
from taskstream.broker import Broker
from taskstream.cli import progress as progress_module
from taskstream.cli.main import main
from taskstream.message import Message

RunCli = Callable[..., subprocess.CompletedProcess[str]]


class Terminal(io.StringIO):
    """Where somebody sits who answers ``answer``."""

    def isatty(self) -> bool:
        return True


class Said:
    """What one call of the command line came to."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.lines = [line.removeprefix("taskstream: ") for line in err.splitlines() if " broker redis://" not in line]

    @property
    def line(self) -> str:
        (line,) = self.lines
        return line


Run = Callable[..., Said]


@pytest.fixture
def broker(broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """A broker on which a worker once registered the queue ``jobs``; commands use it and run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKSTREAM_BROKER", broker_url)
    broker = Broker(broker_url)
    broker.announce_subscriptions({STREAM: (STREAM, "taskstream")}, 60)
    yield broker
    broker.close()


@pytest.fixture
def run(broker: Broker, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Said:
        capsys.readouterr()
        status = main(["dead", *arguments])
        return Said(status, *capsys.readouterr())

    return call


def left(run: Run) -> list[str]:
    """Ids of the letters there are."""
    return [letter["id"] for letter in json.loads(run("list", STREAM, "--json").out)]


def call_of(message_id: str, **more: Any) -> str:
    return letter_json(Message(message_id, "jobs.add", BODY, {"request_id": "r1"}, attempt=4), **more)


# -- list and show ---------------------------------------------------------------------------------------------


def test_list_is_a_line_for_each(broker: Broker, run: Run) -> None:
    bury(broker, {"m1": call_of("m1", text="x" * 200)}, ago_s=7210)
    bury(broker, {"entry-5-1": unreadable_json("5-1", [b"a", b"b\x1b"])}, ago_s=61)
    said = run("list", STREAM)
    head, first, second = said.out.splitlines()
    assert head.split() == ["ID", "TASK", "DEAD", "FOR", "ATTEMPTS", "DELIVERIES", "ERROR"]
    assert first.split() == ["m1", "jobs.add", "2h", "4", "4", "ValueError:", f"{'x' * 67}…"]
    assert second.split()[:5] == ["entry-5-1", "-", "1m", "0", "1"]
    assert (said.status, said.lines) == (0, [])
    assert len(run("list", STREAM, "--since", "1h").out.splitlines()) == 2


def test_list_as_json(broker: Broker, run: Run) -> None:
    bury(broker, {"m1": call_of("m1")})
    (found,) = json.loads(run("list", STREAM, "--json").out)
    assert abs(broker.now_ms() - 60_000 - found.pop("died_ms")) < 10_000
    assert found == {
        "id": "m1",
        "name": "jobs.add",
        "handler": "jobs.add",
        "sent_ms": 1790000000000,
        "attempts": 4,
        "deliveries": 4,
        "deaths": 0,
        "worker": "host.1.1",
        "error": {"type": "ValueError", "message": "why"},
        "requeued": 0,
    }


def test_nothing_is_an_empty_list(run: Run) -> None:
    said = run("list", STREAM)
    assert (said.status, said.out, said.line) == (0, "", "no dead letter of jobs")
    assert run("list", STREAM, "--error", "X").line == "no dead letter of jobs fits"
    assert run("list", STREAM, "--error", "").line == "no dead letter of jobs fits"
    for command in ("list", "requeue", "purge"):
        said = run(command, STREAM, "--since", "1h", "--older-than", "2h")
        assert said.status == 2 and "no letter can have died at most 1h (--since) and at least 2h" in said.line
    assert json.loads(run("list", STREAM, "--json").out) == []


def test_twenty_thousand_are_listed_and_many_requeued_with_plain_lines_of_progress(
    broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_S", 0.0)
    buried = bury_many(broker, 20_000)
    lines = run("list", STREAM).out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == buried
    # The columns of later pages stand under the heading too
    assert {line.index("jobs.add") for line in lines[1:]} == {lines[0].index("TASK")}
    said = run("requeue", STREAM, "--all", "--limit", "3000")
    assert (said.status, said.out) == (0, "requeued 3000 dead letters of jobs\n")
    assert said.lines[-1] == "requeuing: 3000 of 3000" and len(said.lines) >= 30
    requeued = {entry["id"] for entry in again(broker)}
    assert len(requeued) == 3000 and requeued.isdisjoint(left(run))


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_module.progress("purging", 2000) as advance:
        for _ in range(20):
            advance(100)
    assert "purging" in terminal.getvalue() and "2000/2000" in terminal.getvalue()


def test_show_has_everything(broker: Broker, run: Run) -> None:
    message = Message("m1", "jobs.add", BODY, {"request_id": "r1"}, attempt=4)
    bury(broker, {"m1": letter_json(message, "KeyError", "first\x1b[31m", number=4)}, ago_s=100)
    run("requeue", STREAM, "m1")
    headers = json.loads(again(broker)[0]["headers"])
    bury(broker, {"m1": letter_json(Message("m1", "jobs.add", BODY, headers, attempt=2), "OSError", number=6)})
    text = run("show", STREAM, "m1").out
    assert "\x1b" not in text
    rows = {line[:12].strip(): line[12:] for line in text.splitlines() if not line.startswith(" ")}
    assert "KeyError: first?[31m (attempts 4, deliveries 4)" in rows["before"]
    wanted = {"id": "m1", "error": "OSError: why", "attempts": "2", "deliveries": "6", "body": '{"args":["ü"]}'}
    assert wanted.items() <= rows.items()
    assert rows["headers"] == '{"request_id":"r1"}'
    error = "error       OSError: why\n            Traceback\n              OSError: why\nattempts "
    assert error in text
    (found,) = json.loads(run("show", STREAM, "m1", "--json").out)
    assert (found["requeued"], found["body"], found["headers"]) == (1, '{"args":["ü"]}', {"request_id": "r1"})
    assert found["error"]["traceback"] == "Traceback\n  OSError: why"
    (death,) = found["history"]
    assert (death["type"], death["attempts"], death["deliveries"]) == ("KeyError", 4, 4)


def test_show_what_is_no_message(broker: Broker, run: Run) -> None:
    bury(broker, {"entry-5-1": unreadable_json("5-1", [b"a", b"b\xff\x1b"])})
    assert "field       b\\xff?\n" in run("show", STREAM, "entry-5-1").out
    (found,) = json.loads(run("show", STREAM, "entry-5-1", "--json").out)
    assert found["fields"] == ["a", "b\\xff\x1b"] and "body" not in found


def test_an_id_without_a_letter_is_told(broker: Broker, run: Run) -> None:
    bury_many(broker, 2)
    for command in (["show"], ["requeue"], ["purge", "--yes"], ["requeue", "--dry-run"], ["purge", "--dry-run"]):
        said = run(command[0], STREAM, "nope", "m000000", *command[1:])
        assert (said.status, said.lines) == (1, ["no dead letter 'nope' of jobs"]), command
        bury_many(broker, 2)
    said = run("requeue", STREAM, *(f"x{n}" for n in range(30)))
    assert (said.status, len(said.lines), said.lines[-1]) == (1, 21, "10 more ids have none")


# -- requeue and purge -----------------------------------------------------------------------------------------


def test_requeue_by_id_and_by_filter(broker: Broker, run: Run) -> None:
    bury_many(broker, 3)
    bury(broker, {"k1": call_of("k1", error="KeyError"), "k2": call_of("k2", error="KeyError")}, ago_s=30)
    said = run("requeue", STREAM, "m000001", "m000001", "k1")
    assert (said.status, said.out, said.lines) == (0, "requeued 2 dead letters of jobs\n", [])
    assert [entry["id"] for entry in again(broker)] == ["m000001", "k1"]
    assert run("requeue", STREAM, "--error", "KeyError").out == "requeued 1 dead letter of jobs\n"
    assert left(run) == ["m000000", "m000002"]
    assert run("requeue", STREAM, "--older-than", "1h").out == "requeued 0 dead letters of jobs\n"
    assert run("requeue", STREAM, "--all", "--limit", "1").out == "requeued 1 dead letter of jobs\n"
    assert left(run) == ["m000002"]
    assert run("requeue", STREAM, "--all").status == 0
    assert left(run) == []


def test_what_is_no_message_is_refused_and_the_rest_goes_on(broker: Broker, run: Run) -> None:
    bury_many(broker, 1)
    bury(broker, {f"entry-5-{n}": unreadable_json(f"5-{n}", [b"a", b"b"]) for n in range(25)})
    said = run("requeue", STREAM, "--all")
    assert (said.status, said.out) == (1, "requeued 1 dead letter of jobs\n")
    assert said.lines[0].startswith("entry-5-0 is no message that could run: field 'v' is missing")
    assert (len(said.lines), said.lines[-1]) == (21, "5 more were refused")
    assert run("requeue", STREAM, "--all", "--force").out == "requeued 25 dead letters of jobs\n"
    assert len(again(broker)) == 26 and left(run) == []


def test_purge_needs_a_yes(broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bury_many(broker, 3)
    said = run("purge", STREAM, "--all")
    assert said.status == 2 and said.line.startswith(
        "there is no terminal to ask on whether to purge: say so with --yes"
    )
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    said = run("purge", STREAM, "--all")
    assert (said.status, said.out) == (1, "3 dead letters of jobs\n")
    assert "Purge them for good? [y/N]" in said.lines[0] and "nothing was purged" in said.lines[-1]
    assert len(left(run)) == 3
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run("purge", STREAM, "m000001").out == "1 dead letter of jobs\npurged 1 dead letter of jobs\n"
    # What dies while it is asked was not in the number
    real = click.confirm

    def slow(*words: Any, **more: Any) -> Any:
        bury(broker, {"late": call_of("late")}, ago_s=-60)
        return real(*words, **more)

    monkeypatch.setattr("taskstream.cli.dead.click.confirm", slow)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run("purge", STREAM, "--all").out == "2 dead letters of jobs\npurged 2 dead letters of jobs\n"
    assert broker.client.zrange(DEAD, 0, -1) == [b"late"]
    monkeypatch.setattr(sys, "stdin", Terminal())
    # There is nothing to ask about
    assert run("purge", STREAM, "nope").lines == ["no dead letter 'nope' of jobs"]
    bury_many(broker, 2)
    assert run("purge", STREAM, "--all", "--yes").out == "purged 2 dead letters of jobs\n"
    assert left(run) == [] and again(broker) == []


def test_a_dry_run_changes_nothing(broker: Broker, run: Run) -> None:
    bury_many(broker, 3)
    bury(broker, {"k1": call_of("k1", error="KeyError")})
    for command in ("requeue", "purge"):
        assert run(command, STREAM, "--error", "ValueError", "--dry-run").out == "3 dead letters of jobs\n"
        assert run(command, STREAM, "--all", "--limit", "2", "--dry-run").out == "2 dead letters of jobs\n"
    assert len(left(run)) == 4 and again(broker) == []


def test_what_somebody_else_took_meanwhile_is_told(broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskstream.broker.letters import Letters

    bury_many(broker, 2)
    real = Letters.requeue

    def late(self: Letters, letters: Any, **more: Any) -> Any:
        broker.client.delete(keys.dead(STREAM, "taskstream"), keys.letters(STREAM, "taskstream"))
        return real(self, letters, **more)

    monkeypatch.setattr(Letters, "requeue", late)
    said = run("requeue", STREAM, "--all")
    assert (said.status, said.out) == (0, "requeued 0 dead letters of jobs\n")
    assert said.line == "2 dead letters had been requeued or purged by somebody else meanwhile"
    bury_many(broker, 1)
    assert run("requeue", STREAM, "m000000").status == 1


def test_what_was_done_is_told_when_the_broker_goes_away(
    broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskstream.broker.letters import Letters
    from taskstream.errors import BrokerUnavailable

    bury_many(broker, 300)
    real, calls = Letters.requeue, []

    def gone(self: Letters, letters: Any, **more: Any) -> Any:
        calls.append(len(letters))
        if len(calls) == 3:
            raise BrokerUnavailable("broker is away")
        return real(self, letters, **more)

    monkeypatch.setattr(Letters, "requeue", gone)
    said = run("requeue", STREAM, "--all")
    done = sum(calls[:2])
    assert (said.status, said.out) == (1, f"requeued {done} dead letters of jobs\n")
    assert said.lines[-1] == "broker is away" and len(left(run)) == 300 - done


def test_help_says_durations_plainly(run: Run) -> None:
    assert "--since 2h  " in run("requeue", "--help").out and "None]" not in run("requeue", "--help").out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["requeue"], "which dead letters? Give ids, a filter such as --error or --older-than, or --all"),
        (["purge", "--yes"], "which dead letters? "),
        (["requeue", "--limit", "5"], "which dead letters? "),
        (["requeue", "m1", "--all"], "ids, filters and --all exclude one another"),
        (["requeue", "m1", "--error", "X"], "ids, filters and --all exclude one another"),
        (["requeue", "m1", "--limit", "1"], "ids, filters and --all exclude one another"),
        (["requeue", "--all", "--error", "X"], "ids, filters and --all exclude one another"),
        (
            ["requeue", "--since", "soon"],
            "Invalid value for '--since': 'soon' is no duration: give a number of seconds",
        ),
        (["list", "--older-than", "0"], "Invalid value for '--older-than': '0' is no duration"),
        (["list", "--limit", "0"], "Invalid value for '--limit'"),
        (["show"], "Missing argument 'ID...'"),
    ],
)
def test_bad_usage_is_one_line(run: Run, arguments: list[str], text: str) -> None:
    said = run(arguments[0], STREAM, *arguments[1:])
    assert (said.status, said.out) == (2, "") and said.line.startswith(text)


def test_a_name_that_nobody_knows_is_told(run: Run) -> None:
    said = run("list", "job")
    assert said.status == 2 and "no event or queue 'job'; did you mean 'jobs'? known: jobs" in said.line


def test_an_event_by_its_own_name_that_only_the_code_knows(broker: Broker, run_cli: RunCli, tmp_path: Path) -> None:
    """Through the real command line, with no worker alive."""
    write_shop(tmp_path, broker.url)
    broker.client.zadd(keys.dead("orders", "billing"), {"m1": 5})
    broker.client.hset(keys.letters("orders", "billing"), "m1", call_of("m1"))
    done = run_cli("dead", "list", "bill", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["id"] == "m1", done.stderr
    done = run_cli("dead", "requeue", "bill", "--all")
    assert (done.returncode, done.stdout) == (0, f"requeued 1 dead letter of {LABEL}\n"), done.stderr
    assert broker.client.xlen(keys.again("orders", "billing")) == 1
