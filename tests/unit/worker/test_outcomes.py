"""What becomes of a message after its run, or without one."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.errors import InvalidMessage, Retry, Shutdown, TimeLimitExceeded
from taskstream.handler import Handler, Settings
from taskstream.message import DEATHS_HEADER, UNKNOWN_HEADER, Delivery, Message, from_fields_json
from taskstream.results.base import Failure, Outcome
from taskstream_worker import outcomes
from taskstream_worker.membership import Job, Membership

ENTRY_MS = 1_790_000_000_000


def job(message: Message | None = None, *, number: int = 1, deaths: int = 0, **settings: Any) -> Job:
    """A job of handler ``h`` with these settings, read as hand-out ``number``."""
    found = message or Message("m1", "h", b"{}", {"request_id": "r1", "other": [1]})
    delivery = Delivery(found, "s", "g", f"{ENTRY_MS}-0", number, deaths=deaths)
    handler = Handler("app.h", lambda delivery: None, "app", "1.0", logging.INFO, Settings(**settings))
    made = Job(cast(Membership, None), delivery, handler)
    made.started_ms = 5
    return made


def failed(error: BaseException, message: Message | None = None, *, number: int = 1, **settings: Any) -> Job:
    made = job(message, number=number, **settings)
    outcomes.fail(made, error, "w", True)
    return made


def run_of(attempt: int) -> Message:
    return Message("m1", "h", b"{}", attempt=attempt)


# -- success -----------------------------------------------------------------------------------------------


def test_success() -> None:
    made = job(number=4)
    outcomes.succeed(made, b'{"a":1}', "w", True)
    found = made.outcome
    assert made.move == "a" and found is not None
    assert found == Outcome(
        *("m1", "g", "app.h", "SUCCESS", 4, 1, ENTRY_MS, 5, found.finished_ms, "w"), msgspec.Raw(b'{"a":1}'), None, "r1"
    )


def test_success_without_a_value_or_without_results() -> None:
    made = job()
    outcomes.succeed(made, None, "w", True)
    assert made.outcome is not None and bytes(made.outcome.value) == b"null"
    made = job()
    outcomes.succeed(made, b"1", "w", False)
    assert (made.move, made.outcome) == ("a", None)


# -- failure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "max_retries", "move"),
    [(1, 3, "r"), (3, 3, "r"), (4, 3, "d"), (5, 3, "d"), (1, 0, "d"), (1, 1, "r"), (2, 1, "d")],
)
def test_as_many_retries_as_allowed(attempt: int, max_retries: int, move: str) -> None:
    made = failed(ValueError("x"), run_of(attempt), max_retries=max_retries)
    assert made.move == move
    assert made.outcome is not None and made.outcome.state == {"r": "RETRY", "d": "FAILURE"}[move]
    assert made.outcome.attempts == attempt and made.outcome.error is not None


RETRIED: list[tuple[BaseException, tuple[type[BaseException], ...], bool]] = [
    (ValueError(), (Exception,), True),
    (ValueError(), (ValueError,), True),
    (ValueError(), (KeyError, ValueError), True),
    (UnicodeError(), (ValueError,), True),
    (ValueError(), (KeyError,), False),
    (ValueError(), (), False),
    (KeyboardInterrupt(), (Exception,), False),
    (SystemExit(), (Exception,), False),
    (SystemExit(), (BaseException,), True),
    (InvalidMessage("x"), (Exception,), False),
    (InvalidMessage("x"), (InvalidMessage,), False),
    (Shutdown(), (BaseException,), False),
    (TimeLimitExceeded(), (Exception,), True),
    (TimeLimitExceeded(), (TimeoutError,), True),
    (TimeLimitExceeded(), (OSError,), True),
    (TimeLimitExceeded(), (TimeLimitExceeded,), True),
    (TimeLimitExceeded(), (ValueError,), False),
    (TimeLimitExceeded(), (), False),
]


@pytest.mark.parametrize(("error", "kinds", "expected"), RETRIED)
def test_which_failures_are_tried_again(
    error: BaseException, kinds: tuple[type[BaseException], ...], expected: bool
) -> None:
    assert failed(error, retry_for=kinds, max_retries=5).move == ("r" if expected else "d")


def test_a_handler_may_ask_for_another_try() -> None:
    # Given: one whose settings retry nothing
    asked = failed(Retry(delay=3.5, cause=KeyError("x")), retry_for=())
    assert (asked.move, asked.delay_ms, asked.due_ms) == ("r", 3500, 0)
    assert from_fields_json(asked.payload).attempt == 2
    assert asked.outcome is not None and asked.outcome.state == "RETRY"
    assert asked.outcome.error is not None and asked.outcome.error.type == "KeyError"
    # Or: by the settings' own backoff, or at once
    assert failed(Retry(), run_of(2), retry_for=(), retry_backoff=2.0, retry_jitter=False).delay_ms == 4000
    assert failed(Retry(delay=0), run_of(2)).delay_ms == 0


def test_a_handler_may_name_the_time_of_another_try() -> None:
    soon = outcomes.now_ms() + 60_000
    asked = failed(Retry(due_ms=soon), retry_for=())
    assert (asked.move, asked.due_ms) == ("r", soon) and 50_000 < asked.delay_ms <= 60_000
    assert failed(Retry(due_ms=5)).delay_ms == 0


@pytest.mark.parametrize(
    ("attempt", "own", "settings", "move"),
    [(3, None, 3, "r"), (4, None, 3, "d"), (4, 4, 3, "r"), (2, 1, 3, "d"), (1, 0, 3, "d"), (1, None, 0, "d")],
)
def test_asking_has_an_end(attempt: int, own: int | None, settings: int, move: str) -> None:
    kinds: tuple[type[BaseException], ...] = (Exception,)
    asked = failed(Retry(cause=KeyError("x"), max_retries=own), run_of(attempt), max_retries=settings, retry_for=kinds)
    assert asked.move == move
    assert asked.outcome is not None and asked.outcome.error is not None and asked.outcome.error.type == "KeyError"


def test_what_asked_too_often_without_a_cause_says_so() -> None:
    asked = failed(Retry(), run_of(4))
    assert asked.move == "d"
    error = json.loads(asked.payload)["error"]
    assert (error["type"], error["message"]) == (
        "MaxRetriesExceeded",
        "was tried again 3 times, which is all of max_retries",
    )


def test_a_revoked_message_is_no_dead_letter() -> None:
    made = job(number=2)
    outcomes.revoke(made, Failure("Revoked", "why"), "w", True)
    assert (made.move, made.payload) == ("a", "")
    assert made.outcome is not None and (made.outcome.state, made.outcome.delivery) == ("REVOKED", 2)
    assert made.outcome.error == Failure("Revoked", "why")
    made = job()
    outcomes.revoke(made, Failure("Revoked", "why"), "w", False)
    assert (made.move, made.outcome) == ("a", None)


def test_a_retry_is_the_same_message_once_more() -> None:
    message = Message("m1", "h", b'{"\xc3\xbc":1}', {"request_id": "r1", "n": [1]}, attempt=2, deliveries=3, sent_ms=9)
    made = failed(ValueError(), message, number=4, retry_jitter=False, retry_backoff=1.5)
    again = from_fields_json(made.payload)
    # Its next hand-out is number 5, wherever that is
    assert again == msgspec.structs.replace(message, attempt=3, deliveries=4)
    assert made.delay_ms == 3000
    assert made.outcome is not None and (made.outcome.delivery, made.outcome.attempts) == (4, 2)


def test_a_retry_remembers_when_it_was_first_sent() -> None:
    assert from_fields_json(failed(ValueError()).payload).sent_ms == ENTRY_MS


def test_delays_grow_up_to_the_longest_with_jitter_below() -> None:
    settings: dict[str, Any] = {"max_retries": 99, "retry_backoff": 2.0, "retry_backoff_max": 10.0}
    exact = [failed(ValueError(), run_of(n), retry_jitter=False, **settings).delay_ms for n in range(1, 6)]
    assert exact == [2000, 4000, 8000, 10_000, 10_000]
    spread = [failed(ValueError(), run_of(5), **settings).delay_ms for _ in range(50)]
    assert all(0 <= one <= 10_000 for one in spread) and len(set(spread)) > 10


def test_a_dead_letter_says_everything() -> None:
    message = Message("m1", "h", b'{"\xc3\xbc":1}', {"request_id": "r1"}, attempt=4, deliveries=5)
    made = failed(KeyError("ü"), message, number=6, max_retries=3)
    letter = json.loads(made.payload)
    error = letter.pop("error")
    fields = letter.pop("fields")
    assert letter == {
        "id": "m1",
        "name": "h",
        "handler": "app.h",
        "attempts": 4,
        "deliveries": 6,
        "deaths": 0,
        "sent_ms": ENTRY_MS,
        "worker": "w",
    }
    assert (error["type"], error["message"]) == ("KeyError", "'ü'")
    assert "KeyError" in error["traceback"]
    # What is in it can be sent again as it is
    assert from_fields_json(json.dumps(fields)) == msgspec.structs.replace(message, deliveries=6, sent_ms=ENTRY_MS)


def test_without_results_nothing_is_kept() -> None:
    for how in (lambda made: outcomes.fail(made, ValueError(), "w", False), bury(False)):
        made = job(max_retries=0)
        how(made)
        assert (made.move, made.outcome) == ("d", None) and made.payload


# -- what exceptions say -------------------------------------------------------------------------------------


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Fatal(Exception):
    """Asking for its text would end the process."""

    def __str__(self) -> str:
        raise SystemExit(1)


class Liar(Exception):
    """Its text is no text."""

    def __str__(self) -> str:
        return cast(str, 5)


def grouped() -> BaseException:
    return ExceptionGroup("several", [ValueError("a"), Mute()])


def circular() -> BaseException:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    return first


def noted() -> BaseException:
    class Notes(list[str]):
        def __iter__(self) -> Iterator[str]:
            raise SystemExit(3)

    error = ValueError("a")
    error.__notes__ = Notes(["n"])
    return error


def long() -> BaseException:
    return ValueError("x" * 1_000_000)


WEIRD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "mute": (Mute, "(its text cannot be had: RuntimeError)"),
    "fatal": (Fatal, "(its text cannot be had: SystemExit)"),
    "liar": (Liar, "(its text cannot be had: TypeError)"),
    "surrogate": (lambda: ValueError("a\ud800b"), "a\\ud800b"),
    "empty": (ValueError, ""),
    "control": (lambda: ValueError("a\0\n\x1b[31m"), "a\0\n\x1b[31m"),
    "group": (grouped, "several (2 sub-exceptions)"),
    "circle": (circular, "a"),
    "syntax": (lambda: SyntaxError("m", ("file", 1, "abc", "text")), "m (file, line 1)"),  # type: ignore[arg-type]
    "notes": (noted, "a"),
    "bytes": (lambda: ValueError(b"\xff"), "b'\\xff'"),
}


@pytest.mark.parametrize(("make", "text"), WEIRD.values(), ids=WEIRD)
def test_weird_exceptions_can_be_written_down(make: Callable[[], BaseException], text: str) -> None:
    error = make()
    found = outcomes.describe(error)
    assert (found.type, found.message) == (type(error).__name__, text)
    made = failed(error, max_retries=0)
    json.loads(made.payload)["error"]["traceback"].encode()
    assert msgspec.json.decode(msgspec.json.encode(made.outcome), type=Outcome) == made.outcome


def test_a_traceback_is_bounded_and_keeps_both_ends() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError(f"at the bottom {'y' * 300_000}")

    try:
        deep(3)
    except ValueError as error:
        found = outcomes.describe(error)
    assert len(found.traceback) < 70_000
    assert found.traceback.startswith("Traceback") and "\n…\n" in found.traceback
    assert "in deep" in found.traceback


def test_the_text_of_an_error_is_bounded() -> None:
    assert len(outcomes.describe(long()).message) < 70_000


@pytest.mark.parametrize("count", [-(10**400), 10**400, 1e300, -1, True, "1", None])
def test_how_often_a_name_was_unknown_can_be_forged(count: object) -> None:
    made = job(Message("m1", "h", b"{}", {UNKNOWN_HEADER: count}))
    assert outcomes.put_back_unknown(made, "w", True) is (count is True)
    assert made.move == ("r" if count is True else "d") and made.payload


@given(st.text())
def test_any_text_of_an_error_survives_the_way_to_a_letter(text: str) -> None:
    made = failed(ValueError(text), max_retries=0)
    message = json.loads(made.payload)["error"]["message"]
    assert message == text.encode("utf-8", "backslashreplace").decode()


# -- without a run -------------------------------------------------------------------------------------------


def bury(keep: bool) -> Callable[[Job], None]:
    return lambda made: outcomes.bury(made, Failure("WorkerDied", "why"), "w", keep)


def test_a_buried_message_has_an_outcome_and_a_letter() -> None:
    made = job(deaths=3, number=3)
    made.started_ms = 0
    bury(True)(made)
    assert made.move == "d" and made.outcome is not None
    assert (made.outcome.state, made.outcome.error) == ("FAILURE", Failure("WorkerDied", "why"))
    # It did not run: it began and ended at once
    assert made.outcome.started_ms == made.outcome.finished_ms > 0
    assert json.loads(made.payload)["deaths"] == 3


def test_what_is_put_back_carries_the_deaths_under_it() -> None:
    made = job(deaths=2, number=3)
    outcomes.give_back(made, started=False)
    found = from_fields_json(made.payload)
    assert found.headers == {"request_id": "r1", "other": [1], DEATHS_HEADER: 2}
    made = job(deaths=1, retry_for=(ValueError,))
    outcomes.fail(made, ValueError("x"), "w", False)
    assert made.move == "r" and DEATHS_HEADER in (from_fields_json(made.payload).headers or {})
    innocent = job(Message("m1", "h", b"{}"))
    outcomes.give_back(innocent, started=True)
    assert from_fields_json(innocent.payload).headers is None


@pytest.mark.parametrize(("started", "deliveries"), [(False, 2), (True, 3)])
def test_a_message_given_back_counts_a_run_only_if_it_started(started: bool, deliveries: int) -> None:
    made = job(number=3)
    outcomes.succeed(made, b"1", "w", True)
    outcomes.give_back(made, started=started)
    assert (made.move, made.outcome) == ("g", None)
    again = from_fields_json(made.payload)
    assert (again.deliveries, again.attempt, again.sent_ms) == (deliveries, 1, ENTRY_MS)
    assert again.headers == {"request_id": "r1", "other": [1]}


def test_an_unknown_name_is_put_back_with_growing_delays_and_dies_in_the_end() -> None:
    message, delays = Message("m1", "later", b"{}", {"mine": "x"}), []
    while True:
        made = job(message)
        made.handler = None
        if not outcomes.put_back_unknown(made, "w", True):
            break
        assert made.move == "r" and made.outcome is None
        delays.append(made.delay_ms / 1000)
        message = from_fields_json(made.payload)
        assert message.attempt == 1 and message.headers is not None and message.headers["mine"] == "x"
    assert delays == sorted(delays) and delays[0] == outcomes.UNKNOWN_BACKOFF_S
    assert len(delays) == outcomes.MAX_UNKNOWN and 300 < sum(delays) < 1800
    assert made.move == "d" and made.outcome is not None and made.outcome.handler == "later"
    letter = json.loads(made.payload)
    assert letter["error"]["type"] == "UnknownHandler" and "'later'" in letter["error"]["message"]


@pytest.mark.parametrize("count", ["x", None, [], {}, 1.5, 10**30, True, -1])
def test_a_count_that_somebody_made_up_ends_all_the_same(count: object) -> None:
    message = Message("m1", "later", b"{}", {outcomes.UNKNOWN_HEADER: count})
    for _ in range(outcomes.MAX_UNKNOWN + 3):
        made = job(message)
        if not outcomes.put_back_unknown(made, "w", True):
            assert made.move == "d"
            return
        assert 0 <= made.delay_ms <= 1000 * outcomes.UNKNOWN_BACKOFF_MAX_S
        message = from_fields_json(made.payload)
    raise AssertionError("put back for ever")


@given(st.lists(st.binary(), max_size=6))
def test_an_unreadable_entry_is_buried_with_whatever_is_in_it(fields: list[bytes]) -> None:
    made = Job(cast(Membership, None), Delivery(Message("entry-12-3", "", b""), "s", "g", "12-3", 2, deaths=1), None)
    outcomes.bury_unreadable(made, fields, "why", "w")
    assert (made.move, made.outcome) == ("d", None)
    letter = json.loads(made.payload.encode())
    assert letter["fields"] == [field.decode(errors="backslashreplace") for field in fields]
    texts = [field.encode() for field in letter["fields"]]
    assert (texts if "raw" not in letter else [base64.b64decode(one) for one in letter["raw"]]) == fields
    assert (letter["id"], letter["name"], letter["sent_ms"], letter["deliveries"]) == ("entry-12-3", None, 12, 2)
    assert letter["error"] == {"type": "InvalidMessage", "message": "why", "traceback": ""}
