"""The chaos run's accounting finds what it is there to find: a loss, a double end, a run without a reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from chaos import audit
from chaos.app.chaos_effects import BEGIN, END, FAIL, RECORD
from chaos.records import CHILD, Call, Records, Run, Span
from outcomes import outcome

from taskstream.results import FAILURE, Outcome
from taskstream.results.base import Failure

LEASE_S = 3.0
CALL = Call("accepted", 7, "quick", "m7")
STAGES = Call("accepted", 7, "first", "m7", "c7")
STOP = Span(10.2, 16.0)
RUN = Run(7, 100, 10.0, 10.5)
CHILD_RUN = Run(7 | CHILD, 100, 10.6, 10.7)
LETTER = {"error": {"type": "WorkerDied", "message": "3 worker processes died"}, "deaths": 3}


def success(message_id: str = "m7", value: int = 7) -> Outcome:
    return outcome(message_id, value=msgspec.Raw(str(value).encode()))


def ends(
    found: list[Outcome],
    runs: list[Run],
    letter: Mapping[str, object] | None = None,
    call: Call = CALL,
) -> list[str]:
    by_number: dict[int, list[Run]] = {}
    for run in runs:
        by_number.setdefault(run.number, []).append(run)
    letters = {"m7": letter} if letter else {}
    accounts = audit.Ends(by_number, lambda key: [one for one in found if one.id == key], letters)
    accounts.take(call)
    return accounts.problems + accounts.strangers()


def test_good_ends() -> None:
    assert ends([success()], [RUN]) == []
    assert ends([outcome("m7", state=FAILURE)], [RUN], LETTER) == []
    assert ends([], [], call=Call("refused", 7, "", "-")) == []
    assert ends([], [RUN], call=Call("unsure", 7, "", "-")) == []
    assert ends([success(), success("c7", 7 | CHILD)], [RUN, CHILD_RUN], call=STAGES) == []
    # A first stage that never got to its end may have sent the second one or not.
    assert ends([outcome("m7", state=FAILURE)], [Run(7, 100, 10.0)], LETTER, STAGES) == []


@pytest.mark.parametrize(
    ("found", "runs", "letter", "call", "expected"),
    [
        ([], [RUN], None, CALL, "0 outcomes on disk"),
        ([success(), success()], [RUN], None, CALL, "2 outcomes"),
        ([success(value=8)], [RUN], None, CALL, "value of another"),
        ([success()], [RUN], LETTER, CALL, "a success and a dead letter"),
        ([success()], [Run(7, 100, 10.0)], None, CALL, "without an end"),
        ([success()], [RUN], None, CALL._replace(kind="hopeless"), "cannot be"),
        ([outcome("m7", state=FAILURE)], [RUN], None, CALL, "dead letter: None"),
        ([outcome("m7", state=FAILURE)], [RUN], {**LETTER, "deaths": 2}, CALL, "no good reason"),
        ([], [RUN], None, Call("refused", 7, "", "-"), "refused as not sent, and it ran"),
        ([success()], [RUN], None, STAGES, "0 outcomes on disk, 0 runs"),
        ([success(), success("c7", 7)], [RUN, CHILD_RUN], None, STAGES, "value of another"),
    ],
)
def test_bad_ends(
    found: list[Outcome], runs: list[Run], letter: dict[str, object] | None, call: Call, expected: str
) -> None:
    problems = ends(found, runs, letter, call)
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("started", "last", "problem"),
    [
        (20.0, Run(7, 101, 20.0, 20.5), None),
        (20.1, Run(7, 101, 20.0, failed=20.5), None),
        (10.0, Run(7, 101, 20.0, 20.5), "not of the last one"),
        (10.0, Run(7, 101, 20.0), "an earlier one won"),
    ],
)
def test_the_last_run_wins(started: float, last: Run, problem: str | None) -> None:
    epoch_s = 1_000_000.0
    found = audit.winner_problem([RUN, last], outcome("m7", started_ms=int(1000 * (epoch_s + started))), epoch_s)
    assert found is None if problem is None else problem in str(found)


def test_runs_and_letters_nobody_called() -> None:
    assert audit.Ends({7: [RUN]}, lambda key: [], {}).strangers() == ["7: ran although nobody called it"]
    assert audit.Ends({}, lambda key: [], {"m7": LETTER}).strangers() == ["dead letter m7: nobody called it"]


def test_counts_calls_and_ends() -> None:
    accounts = audit.Ends({7: [RUN], 8: [Run(8, 100, 10.0)]}, lambda key: [success()] if key == "m7" else [], {})
    for call in (CALL, Call("accepted", 8, "sleep", "m8"), Call("unsure", 9, "quick", "-")):
        accounts.take(call)
    assert (accounts.verdicts, accounts.kinds) == ({"accepted": 2, "unsure": 1}, {"quick": 1, "sleep": 1})
    assert (accounts.done, accounts.dead, len(accounts.problems)) == (1, {}, 1)


def test_counts_the_innocent() -> None:
    accounts = audit.Ends({}, lambda key: [outcome(key, state=FAILURE)], {"m7": LETTER, "m8": LETTER})
    for call in (CALL, Call("accepted", 8, "poison", "m8")):
        accounts.take(call)
    assert (accounts.dead, accounts.condemned, accounts.problems) == ({"WorkerDied": 2}, 1, [])


def test_a_run_begun_as_its_process_woke_up_does_not_count() -> None:
    # Given a process that stood still from 10 to 20, and one that took over from it at 17
    records = Records(Path())
    records.frozen = [(100, Span(10.0, 20.0))]
    late, taken, own = Run(7, 100, 20.1, 20.2), Run(7, 101, 17.0, 17.1), Run(8, 100, 20.1, 20.2)
    # Then what it began at its waking is set aside, but nothing that only it has run, and nothing later
    runs = {7: [taken, late], 8: [own], 9: [Run(9, 101, 17.0), Run(9, 100, 22.0)]}
    kept, woken = audit.without_woken(runs, records, LEASE_S)
    assert (woken, kept[7], kept[8], len(kept[9])) == ([late], [taken], [own], 2)
    # And neither where the process stood still for less than a lease
    records.frozen = [(100, Span(17.0, 19.9))]
    assert audit.without_woken(runs, records, LEASE_S)[1] == []


def test_a_run_begun_as_its_process_woke_up_must_not_win() -> None:
    late, taken = Run(7, 100, 20.1, 20.2), Run(7, 101, 17.0, 17.1)

    def problems(started_ms: int) -> list[str]:
        found = outcome("m7", value=msgspec.Raw(b"7"), started_ms=started_ms)
        accounts = audit.Ends({7: [taken]}, lambda key: [found], {}, woken=[late])
        accounts.take(CALL)
        return accounts.problems

    assert problems(17_000) == []
    assert len(problems(20_100)) == 1


def test_what_is_buried_for_its_deaths_is_of_no_run() -> None:
    # Given poison that killed two processes while a third stood still, and that one too as soon as it woke up
    died = Failure("WorkerDied", "3 worker processes died while it ran")
    found = outcome("m7", state=FAILURE, error=died, started_ms=20_200)
    runs, last = [Run(7, 101, 17.0), Run(7, 102, 17.1)], Run(7, 100, 20.1)
    accounts = audit.Ends({7: runs}, lambda key: [found], {"m7": LETTER}, woken=[last])
    # When it is buried shortly after that
    accounts.take(CALL._replace(kind="poison"))
    # Then that is not the end of any run, and so of none that must not have won
    assert (accounts.problems, accounts.dead) == ([], {"WorkerDied": 1})


def test_a_process_that_wakes_up_may_take_over_from_one_that_was_killed() -> None:
    # Given a process that stood still from 10 to 20, and one that began a message meanwhile and was killed
    records = Records(Path())
    records.frozen = [(100, Span(10.0, 20.0))]
    broken, late, later = Run(7, 101, 17.0), Run(7, 100, 20.1, 20.2), Run(7, 102, 20.4, 20.5)

    def woken(*runs: Run, killed: float = 18.0) -> list[Run]:
        records.killed = [(101, killed)]
        return audit.without_woken({7: runs}, records, LEASE_S)[1]

    # Then the run at the waking counts
    assert woken(broken, late) == []
    # But neither where it was not the last, nor where the other one had not been killed before, or had ended well
    assert woken(broken, late, later) == [late]
    assert woken(broken, late, killed=16.0) == woken(broken, late, killed=20.3) == [late]
    assert woken(Run(7, 101, 17.0, 17.1), late) == [late]
    # And what had failed is tried again by whoever reads it, unless it had not failed yet
    assert woken(Run(7, 101, 17.0, failed=17.1), late) == []
    assert woken(Run(7, 101, 17.0, failed=20.3), late) == woken(Run(7, 101, 17.0, failed=17.1), late, later) == [late]
    # And neither where somebody else had taken it over from the one that was killed
    assert woken(broken, Run(7, 102, 19.0), late) == [late]


# -- repeats ---------------------------------------------------------------------------------------------


def repeats(**records: object) -> audit.Repeats:
    known = Records(Path("."))
    for name, value in records.items():
        setattr(known, name, value)
    return audit.Repeats(known, LEASE_S)


def repeated(run: Run, **records: object) -> bool:
    """Whether a second run after ``run`` counts as unexplained."""
    found = repeats(**records)
    found.judge({7: [run, Run(7, 101, 40.0, 40.5)]}, concurrency=10)
    return bool(found.problems)


def test_runs_that_had_to_be_repeated() -> None:
    running = Run(7, 100, 10.0)
    assert not repeated(Run(7, 100, 10.0, failed=10.1))
    assert not repeated(running, killed=[(100, 12.0)])
    assert not repeated(running, killed=[(100, 2.0), (100, 12.0)]), "a process id may be used again"
    assert not repeated(RUN, killed=[(100, 11.0)])
    assert not repeated(RUN, killed=[(100, 18.0)], outages=[Span(10.2, 17.0)])
    assert not repeated(RUN, killed=[(100, 18.0)], full=[Span(10.2, 17.0)])
    assert not repeated(RUN, killed=[(100, 18.0)], cut_off=[(100, Span(10.2, 12.0))])
    assert not repeated(RUN, frozen=[(100, Span(10.1, 14.0))])
    assert not repeated(RUN, cut_off=[(100, Span(10.1, 14.0))])
    assert not repeated(RUN, stopped=[(100, STOP)], outages=[Span(10.1, 17.0)])
    assert not repeated(RUN, stopped=[(100, STOP)], full=[Span(10.1, 17.0)])
    assert not repeated(RUN, stopped=[(100, STOP)], cut_off=[(100, Span(10.1, 11.0))])


def test_a_poison_message_kills_its_process() -> None:
    found = repeats()
    found.poisoned([Run(8, 100, 11.0)])
    assert found.reason(Run(7, 100, 10.0)) == "killed"


def test_runs_that_should_not_have_been_repeated() -> None:
    assert repeated(RUN)
    assert repeated(RUN, killed=[(101, 11.0)])
    assert repeated(RUN, killed=[(100, 16.0)])
    assert repeated(RUN, killed=[(100, 9.0)])
    assert repeated(RUN, killed=[(100, 28.0)], outages=[Span(10.2, 17.0)])
    assert repeated(RUN, stopped=[(100, STOP)])
    assert repeated(RUN, stopped=[(100, STOP)], outages=[Span(16.5, 17.0)])
    assert repeated(Run(7, 100, 10.0), stopped=[(100, STOP)], outages=[Span(10.1, 17.0)]), "it had time to finish"
    assert repeated(RUN, outages=[Span(10.2, 17.0)])
    assert repeated(RUN, full=[Span(10.2, 17.0)])
    assert repeated(RUN, frozen=[(100, Span(10.1, 12.0))])
    assert repeated(RUN, frozen=[(101, Span(10.1, 14.0))])
    assert repeated(RUN, cut_off=[(100, Span(10.1, 12.0))])
    assert repeated(RUN, cut_off=[(101, Span(10.1, 14.0))])


def test_repeats_after_a_clean_stop_are_counted() -> None:
    found = repeats(stopped=[(100, STOP)])
    found.judge({7: [RUN, Run(7, 101, 20.0, 20.5)]}, concurrency=10)
    assert found.after_stop == 1
    assert "its process was stopped cleanly" in found.problems[0]


def test_a_killed_process_had_no_more_running_than_it_has_lanes() -> None:
    runs = {number: [Run(number, 100, 10.0), Run(number, 101, 20.0, 20.5)] for number in range(3)}
    few, many = repeats(killed=[(100, 11.0)]), repeats(killed=[(100, 11.0)])
    few.judge(runs, concurrency=3)
    many.judge(runs, concurrency=2)
    assert few.problems == []
    assert "3 messages running" in many.problems[0]
    assert few.reasons == {"killed": 3}


# -- the records -----------------------------------------------------------------------------------------


def test_reads_what_processes_left(tmp_path: Path) -> None:
    (tmp_path / "effects").mkdir()
    torn = RECORD.pack(BEGIN, 9, 4, 5.0)[:-1]
    steps = [(BEGIN, 7, 0, 1.0), (BEGIN, 8, 1, 1.1), (END, 8, 1, 1.2), (BEGIN, 7, 2, 3.0), (FAIL, 7, 0, 3.3)]
    (tmp_path / "effects" / "100-5").write_bytes(b"".join(RECORD.pack(*step) for step in steps) + torn)
    (tmp_path / "effects" / "101-6").write_bytes(RECORD.pack(BEGIN, 7, 0, 2.0) + RECORD.pack(END, 7, 0, 2.5))
    assert Records(tmp_path).runs() == {
        7: [Run(7, 100, 1.0, failed=3.3), Run(7, 101, 2.0, 2.5), Run(7, 100, 3.0)],
        8: [Run(8, 100, 1.1, 1.2)],
    }
    assert [Records(tmp_path).running(pid) for pid in (100, 101, 102)] == [1, 0, 0]


def test_reads_what_producers_wrote(tmp_path: Path) -> None:
    (tmp_path / "producer-many.log").write_text("accepted 7 first m7 c7\nunsure 8 quick - -\n")
    assert list(Records(tmp_path).calls()) == [STAGES, Call("unsure", 8, "quick", "-")]
