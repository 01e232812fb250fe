"""The chaos run's figures, from records made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import measures
from chaos.records import Records, Run, Span


def test_percentiles() -> None:
    assert measures.summary(range(1, 101)) == (100, 50, 99, 100, 0)
    assert measures.summary([], excluded=3) == (0, 0.0, 0.0, 0.0, 3)


def test_a_takeover_is_from_the_death_to_the_next_run() -> None:
    broken_off = [Run(7, 100, 10.0), Run(7, 101, 13.0, 13.5)]
    records = Records(Path("."), killed=[(100, 5.0), (100, 11.0)])
    assert measures.takeovers(records, {7: broken_off}) == [(7, 2.0, "")]
    # What had ended, or failed, or was in another process, or went on before the death, was not taken over.
    others = {
        1: [Run(1, 100, 10.0, 10.5), Run(1, 101, 13.0)],
        2: [Run(2, 100, 10.0, failed=10.5), Run(2, 101, 13.0)],
        3: [Run(3, 102, 10.0), Run(3, 101, 13.0)],
        4: [Run(4, 100, 10.0), Run(4, 101, 10.8)],
    }
    assert measures.takeovers(records, others) == []


@pytest.mark.parametrize(("name", "why"), [("outages", "no broker"), ("full", "disk full"), ("stalls", "machine")])
def test_a_takeover_that_had_to_wait_says_nothing(name: str, why: str) -> None:
    records = Records(Path("."), killed=[(100, 11.0)])
    setattr(records, name, [Span(12.0, 12.5)])
    (found,) = measures.takeovers(records, {7: [Run(7, 100, 10.0), Run(7, 101, 13.0, 13.5)]})
    assert found == (7, 2.0, why)


def test_back_to_work_is_the_first_message_that_the_broker_handed_out() -> None:
    # Given a message that a worker had already and began meanwhile
    runs = {1: [Run(1, 100, 20.1, 20.2)], 2: [Run(2, 100, 20.5, 20.6)]}
    records = Records(Path("."), back=[(20.0, 20.51), (30.0, 30.1)])
    # Then it does not count
    assert measures.back_to_work(records, runs) == [pytest.approx(0.5)]


def test_growth_compares_the_first_third_with_the_last() -> None:
    warming = [(float(second), 10.0 + second) for second in range(60)]
    flat = [(60.0 + second, 70.0 + second % 2) for second in range(300)]
    rising = [(60.0 + second, 70.0 + second / 10) for second in range(300)]
    assert measures.growth(warming + flat, 60.0) == (0.0, 0.0)
    assert measures.growth(warming + rising, 60.0) == (pytest.approx(20.0, rel=0.02), pytest.approx(6.0, rel=0.02))
    assert measures.growth(warming[:10], 60.0) == (0.0, 0.0)
