"""When a watcher may take over: seen unrenewed for a full lease, over one unbroken connection."""

from __future__ import annotations

from taskstream_worker.recoverer import Observations

LEASE = 6.0


def ripe(observed: Observations, at: float, **scores: float) -> list[str]:
    return [name for name, _ in observed.ripe(list(scores.items()), "me", at)]


def test_a_lease_is_ripe_after_a_full_lease_without_renewal() -> None:
    observed = Observations(LEASE)
    assert ripe(observed, 100.0, a=5000.0) == []
    assert ripe(observed, 105.9, a=5000.0) == []
    assert ripe(observed, 106.0, a=5000.0) == ["a"]
    assert ripe(observed, 107.0, a=5000.0) == ["a"]


def test_how_long_ago_it_ran_out_proves_nothing() -> None:
    # After an outage, whoever comes back first finds all the others expired for long.
    assert ripe(Observations(LEASE), 10**6, a=2.0) == []


def test_a_renewal_starts_over() -> None:
    observed = Observations(LEASE)
    ripe(observed, 100.0, a=5000.0)
    assert ripe(observed, 105.0, a=9000.0) == []
    assert ripe(observed, 106.0, a=9000.0) == []
    assert ripe(observed, 110.9, a=9000.0) == []
    assert ripe(observed, 111.0, a=9000.0) == ["a"]


def test_a_broken_connection_starts_over() -> None:
    observed = Observations(LEASE)
    ripe(observed, 100.0, a=5000.0)
    observed.forget()
    assert ripe(observed, 106.0, a=5000.0) == []
    assert ripe(observed, 112.0, a=5000.0) == ["a"]


def test_given_up_and_begun_takeovers_are_ripe_at_once() -> None:
    assert ripe(Observations(LEASE), 100.0, begun=0.0, given_up=1.0, given_up_and_begun=-1.0, live=5000.0) == [
        "begun",
        "given_up",
        "given_up_and_begun",
    ]


def test_one_that_was_gone_meanwhile_starts_over() -> None:
    observed = Observations(LEASE)
    ripe(observed, 100.0, a=5000.0)
    ripe(observed, 103.0)
    assert ripe(observed, 106.0, a=5000.0) == []


def test_my_own_is_never_taken() -> None:
    observed = Observations(LEASE)
    for at in (100.0, 200.0):
        assert ripe(observed, at, me=1.0) == []


def test_each_is_observed_by_itself() -> None:
    observed = Observations(LEASE)
    ripe(observed, 100.0, a=5000.0)
    ripe(observed, 103.0, a=5000.0, b=6000.0)
    assert ripe(observed, 106.0, a=5000.0, b=6000.0) == ["a"]
    assert ripe(observed, 109.0, a=5000.0, b=6000.0) == ["a", "b"]


def test_the_score_comes_along_as_it_was_observed() -> None:
    observed = Observations(LEASE)
    observed.ripe([("a", 5000.5)], "me", 0.0)
    assert observed.ripe([("a", 5000.5), ("b", 1.0)], "me", 6.0) == [("a", 5000.5), ("b", 1.0)]
