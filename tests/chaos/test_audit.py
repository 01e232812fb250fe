"""The chaos run's accounting finds what it is there to find: a loss, a double end, a run without a reason."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from chaos import audit
from chaos.records import Call, Records, Run, Span
from outcomes import outcome

from taskstream.results import FAILURE, Outcome

LEASE_S = 3.0
CALL = Call("accepted", 7, "quick", "m7")
RUN = Run(7, 100, 10.0, 10.5)
LETTER = {"error": {"type": "WorkerDied", "message": "3 worker processes died"}, "deaths": 3}


def success(value: int = 7) -> Outcome:
    return outcome("m7", value=msgspec.Raw(str(value).encode()))


def ends(
    found: list[Outcome], runs: list[Run], letter: dict[str, object] | None = None, call: Call = CALL
) -> list[str]:
    return audit.ends([call], {call.number: runs} if runs else {}, {"m7": found}, {"m7": letter} if letter else {})


def test_good_ends() -> None:
    assert ends([success()], [RUN]) == []
    assert ends([outcome("m7", state=FAILURE)], [RUN], LETTER) == []
    assert ends([], [], call=Call("refused", 7, "", "")) == []
    assert ends([], [RUN], call=Call("unsure", 7, "", "")) == []


@pytest.mark.parametrize(
    ("found", "runs", "letter", "call", "expected"),
    [
        ([], [RUN], None, CALL, "0 outcomes on disk"),
        ([success(), success()], [RUN], None, CALL, "2 outcomes"),
        ([success(8)], [RUN], None, CALL, "value of another"),
        ([success()], [RUN], LETTER, CALL, "a success and a dead letter"),
        ([success()], [Run(7, 100, 10.0)], None, CALL, "without an end"),
        ([success()], [RUN], None, CALL._replace(kind="hopeless"), "cannot be"),
        ([outcome("m7", state=FAILURE)], [RUN], None, CALL, "dead letter: None"),
        ([outcome("m7", state=FAILURE)], [RUN], {**LETTER, "deaths": 2}, CALL, "no good reason"),
        ([], [RUN], None, Call("refused", 7, "", ""), "refused as not sent, and it ran"),
    ],
)
def test_bad_ends(
    found: list[Outcome], runs: list[Run], letter: dict[str, object] | None, call: Call, expected: str
) -> None:
    (problem,) = ends(found, runs, letter, call)
    assert expected in problem


def test_a_run_nobody_called() -> None:
    assert audit.ends([], {7: [RUN]}, {}, {}) == ["7: ran although nobody called it"]


def repeated(run: Run, kind: str = "quick", **records: object) -> bool:
    """Whether a second run after ``run`` counts as unexplained."""
    known = Records(Path("."))
    for name, value in records.items():
        setattr(known, name, value)
    return bool(audit.repeats(known, {7: [run, Run(7, 101, 20.0, 20.5)]}, {7: kind}, LEASE_S))


def test_runs_that_had_to_be_repeated() -> None:
    assert not repeated(Run(7, 100, 10.0, failed=10.1))
    assert not repeated(Run(7, 100, 10.0), killed={100: 12.0})
    assert not repeated(RUN, killed={100: 11.0})
    assert not repeated(Run(7, 100, 10.0), kind="poison")
    assert not repeated(RUN, killed={100: 18.0}, outages=[Span(10.2, 17.0)])
    assert not repeated(RUN, frozen=[(100, Span(10.1, 14.0))])
    assert not repeated(RUN, stopped={100: 10.2}, outages=[Span(10.1, 17.0)])


def test_runs_that_should_not_have_been_repeated() -> None:
    assert repeated(RUN)
    assert repeated(RUN, killed={101: 11.0})
    assert repeated(RUN, killed={100: 16.0})
    assert repeated(RUN, killed={100: 9.0})
    assert repeated(RUN, stopped={100: 10.2})
    assert repeated(RUN, outages=[Span(10.2, 17.0)])
    assert repeated(RUN, frozen=[(100, Span(10.1, 12.0))])
    assert repeated(RUN, frozen=[(101, Span(10.1, 14.0))])
