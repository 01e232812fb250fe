"""When a watcher may take over: seen unrenewed for a full lease, over one unbroken connection."""

from __future__ import annotations

from taskstream_worker.recoverer import Observations

LEASE = 6.0


def ripe(observed: Observations, at: float, **scores: float) -> list[str]:
    return [name for name, _ in observed.ripe(list(scores.items()), "me", at)]


def watch(observed: Observations, begin: int, end: int, **scores: float) -> int | None:
    """Look once a second; the second at which something was ripe, None if nothing was up to ``end``."""
    return next((at for at in range(begin, end + 1) if ripe(observed, at, **scores)), None)


def test_a_lease_is_ripe_after_a_full_lease_without_renewal() -> None:
    observed = Observations(LEASE)
    assert watch(observed, 100, 110, a=5000.0) == 106
    assert ripe(observed, 107.0, a=5000.0) == ["a"]


def test_how_long_ago_it_ran_out_proves_nothing() -> None:
    # After an outage, whoever comes back first finds all the others expired for long.
    assert ripe(Observations(LEASE), 10**6, a=2.0) == []


def test_a_renewal_starts_over() -> None:
    observed = Observations(LEASE)
    assert watch(observed, 100, 104, a=5000.0) is None
    assert watch(observed, 105, 120, a=9000.0) == 111


def test_a_broken_connection_starts_over() -> None:
    observed = Observations(LEASE)
    assert watch(observed, 100, 105, a=5000.0) is None
    observed.forget()
    assert watch(observed, 106, 120, a=5000.0) == 112


def test_a_server_that_stood_still_between_two_looks_proves_little() -> None:
    # Nobody could renew meanwhile; each look after it counts no more than a quarter of a lease.
    observed = Observations(LEASE)
    ripe(observed, 100.0, a=5000.0)
    assert ripe(observed, 1000.0, a=5000.0) == []
    assert watch(observed, 1001, 1020, a=5000.0) == 1005


def test_given_up_and_begun_takeovers_are_ripe_at_once() -> None:
    assert ripe(Observations(LEASE), 100.0, begun=0.0, given_up=1.0, given_up_and_begun=-1.0, live=5000.0) == [
        "begun",
        "given_up",
        "given_up_and_begun",
    ]


def test_one_that_was_gone_meanwhile_starts_over() -> None:
    observed = Observations(LEASE)
    assert watch(observed, 100, 104, a=5000.0) is None
    ripe(observed, 105)
    assert watch(observed, 106, 120, a=5000.0) == 112


def test_my_own_is_never_taken() -> None:
    observed = Observations(LEASE)
    assert watch(observed, 100, 200, me=1.0) is None


def test_each_is_observed_by_itself() -> None:
    observed = Observations(LEASE)
    assert watch(observed, 100, 102, a=5000.0) is None
    assert watch(observed, 103, 106, a=5000.0, b=6000.0) == 106
    assert ripe(observed, 107, a=5000.0, b=6000.0) == ["a"]
    assert ripe(observed, 108, a=5000.0, b=6000.0) == ["a"]
    assert ripe(observed, 109, a=5000.0, b=6000.0) == ["a", "b"]


def test_the_score_comes_along_as_it_was_observed() -> None:
    observed = Observations(LEASE)
    for at in range(6):
        observed.ripe([("a", 5000.5)], "me", float(at))
    assert observed.ripe([("a", 5000.5), ("b", 1.0)], "me", 6.0) == [("a", 5000.5), ("b", 1.0)]
