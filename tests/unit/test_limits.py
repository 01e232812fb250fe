"""Limits of tasks without a server: what a rate means, by what messages are counted, what cannot be used."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from taskstream import ConfigError, InvalidMessage, Taskstream, ValidationError
from taskstream.limits import Limit, parse_rate
from taskstream.message import Delivery, Message, encode_json


@pytest.mark.parametrize(
    ("rate", "apart_us"),
    [
        ("10/s", 100_000),
        ("100/m", 600_000),
        ("5/h", 720_000_000),
        (" 3 / s ", 333_334),
        ("0.5/s", 2_000_000),
        (20, 50_000),
        (2.5, 400_000),
        ("1000000/s", 1),
    ],
)
def test_a_rate_is_a_distance_rounded_up(rate: Any, apart_us: int) -> None:
    assert parse_rate(rate) == apart_us


@pytest.mark.parametrize(
    "rate",
    [
        0,
        -1,
        "0/s",
        "10",
        "10/d",
        "ten/s",
        "10/",
        "/s",
        "",
        True,
        None,
        [],
        float("nan"),
        float("inf"),
        1e300,
        1e7,
        1e-9,
    ],
)
def test_what_is_no_rate(rate: Any) -> None:
    with pytest.raises(ValueError, match=r'text such as "10/s"'):
        parse_rate(rate)


def message(*args: object, **kwargs: object) -> Delivery:
    body = encode_json({"args": list(args), "kwargs": kwargs})
    return Delivery(Message("m1", "shop.work", body), "shop", "taskstream", "1-1", 1)


def limit_of(limit_key: Any, function: Any = None, **options: Any) -> Limit:
    app = Taskstream("shop")

    def work(customer: str, day: date = date(2026, 1, 2), *, size: int = 1) -> None: ...

    task = app.task(max_concurrency=2, limit_key=limit_key, **options)(function or work)
    found = task.handler().limit
    assert found is not None
    return found


def test_a_limit_of_a_task_is_counted_together_or_by_key() -> None:
    app = Taskstream("shop")

    @app.task(rate_limit="10/s", max_concurrency=3)
    def work(customer: str) -> None: ...

    @app.task
    def free() -> None: ...

    found = work.handler().limit
    assert found == Limit(100_000, 3) and free.handler().limit is None
    assert found.name("shop.work", message("anna")) == "shop.work"


def test_the_key_gets_arguments_of_their_types_by_name_however_they_were_given() -> None:
    seen: list[dict[str, Any]] = []

    def key(**arguments: Any) -> object:
        seen.append(arguments)
        return arguments["customer"]

    limit = limit_of(key)
    names = {limit.name("t", one) for one in (message("anna"), message(customer="anna"), message("anna", "2026-01-02"))}
    assert len(names) == 1 and seen == [{"customer": "anna", "day": date(2026, 1, 2), "size": 1}] * 3
    by_day = limit_of(lambda day: day)
    assert by_day.name("t", message("anna")) == by_day.name("t", message("bert", size=5))
    assert by_day.name("t", message("anna")) != by_day.name("t", message("anna", "2027-01-02"))


@pytest.mark.parametrize("key", [None, 5, "ü" * 5000, [1, {"a": 2}], "", True])
def test_a_key_is_any_json_value_and_its_name_fits_into_a_key(key: Any) -> None:
    name = limit_of(lambda: key).name("shop.work", message("anna"))
    assert name.startswith("shop.work/") and len(name) == len("shop.work/") + 32
    assert " " not in name


def test_what_has_no_form_in_json_is_no_key() -> None:
    with pytest.raises(ValidationError, match=r"shop.work: limit_key returned .*, which is not serialisable"):
        limit_of(lambda: object()).name("shop.work", message("anna"))


def test_arguments_that_do_not_fit_have_no_key() -> None:
    with pytest.raises(InvalidMessage, match="customer"):
        limit_of(lambda customer: customer).name("shop.work", message(5))


def test_a_bound_task_is_counted_by_its_callers_arguments() -> None:
    app = Taskstream("shop")

    @app.task(bind=True, max_concurrency=1, limit_key=lambda customer: customer)
    def work(self: Any, customer: str) -> None: ...

    limit = work.handler().limit
    assert limit is not None
    assert limit.name("t", message("anna")) == limit.name("t", message(customer="anna"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate_limit": "10/x"}, "rate_limit='10/x' cannot be used: give a number of runs per second"),
        ({"rate_limit": 0}, "rate_limit=0 cannot be used"),
        ({"max_concurrency": 0}, "max_concurrency=0 cannot be used: give a whole number from 1 on"),
        ({"max_concurrency": True}, "max_concurrency=True cannot be used"),
        ({"max_concurrency": 2.0}, "max_concurrency=2.0 cannot be used"),
        ({"limit_key": lambda customer: customer}, "limit_key=<lambda> cannot be used: it says by what"),
        ({"max_concurrency": 1, "limit_key": "customer"}, "give a function of the task's arguments"),
        ({"max_concurrency": 1, "limit_key": lambda other: other}, "no argument 'other', only customer, size"),
        ({"max_concurrency": 1, "limit_key": lambda *customer: customer}, "has to take 'customer' by its name"),
        ({"rate_limit": 5, "limit_key": lambda customer, /: customer}, "has to take 'customer' by its name"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], text: str) -> None:
    app = Taskstream("shop")

    def work(customer: str, size: int = 1) -> None: ...

    with pytest.raises(ConfigError) as caught:
        app.task(**options)(work)
    assert str(caught.value).startswith("task shop.work: ") and text in str(caught.value)
    assert "\n" not in str(caught.value)
