"""Arguments: what is accepted, what is said of the rest, and that the fast path and marshmallow agree."""

from __future__ import annotations

import enum
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream import ConfigError, InvalidMessage, ValidationError, arguments
from taskstream.arguments import Arguments, ReturnValue
from taskstream.dataobjects import Validator, dataobject


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0


@dataobject
class Order:
    id: UUID
    total: Decimal
    points: list[Point]


def thumbnail(path: str, size: int = 128) -> str:
    return f"{path}@{size}"


def scalars(s: str, i: int, f: float, b: bool, o: int | None, u: int | str, anything: Any, bare) -> None:  # type: ignore[no-untyped-def]
    """One parameter of each kind that the fast path knows."""


def rich(when: datetime, colour: Colour, order: Order, by_id: dict[str, list[Point]]) -> None:
    """Types that only marshmallow knows."""


def variadic(first: int, /, *rest: int, flag: bool = False, **named: str) -> None:
    """Every kind of parameter."""


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, object]:
    with pytest.raises(ValidationError) as caught:
        Arguments(function, "shop.task").encode(args, kwargs)
    assert str(caught.value).startswith("shop.task: ")
    return caught.value.errors


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    arguments = Arguments(function, "shop.task")
    found_args, found_kwargs = arguments.decode(arguments.encode(args, kwargs))
    return list(found_args), dict(found_kwargs)


def test_the_body_is_the_call_without_what_is_empty() -> None:
    made = Arguments(thumbnail, "shop.thumbnail")
    assert json.loads(made.encode(("a",), {"size": 3})) == {"args": ["a"], "kwargs": {"size": 3}}
    assert json.loads(made.encode(("a",), {})) == {"args": ["a"]}
    assert json.loads(made.encode((), {"path": "a"})) == {"kwargs": {"path": "a"}}
    assert json.loads(Arguments(lambda: None, "shop.none").encode((), {})) == {}


def test_annotated_types_arrive_as_such() -> None:
    order = Order(id=UUID(int=5), total=Decimal("9.90"), points=[Point(1, 2)])
    when = datetime(2026, 7, 2, 16, 52, tzinfo=UTC)
    args, kwargs = there_and_back(rich, when, Colour.RED, order=order, by_id={"a": [Point(3)]})
    assert args == [when, Colour.RED]
    assert kwargs == {"order": order, "by_id": {"a": [Point(3)]}}


def test_every_kind_of_parameter_travels() -> None:
    assert there_and_back(variadic, 1, 2, 3, flag=True, note="x") == ([1, 2, 3], {"flag": True, "note": "x"})
    assert there_and_back(variadic, 1, first="by name, into **named") == ([1], {"first": "by name, into **named"})
    assert refused(variadic, 1, 2, "3") == {"rest.1": ["Not a valid integer of at most 64 bits."]}
    assert refused(variadic, 1, note=4) == {"note": ["Not a valid string."]}
    assert refused(variadic) == {"first": ["required, but not given."]}


def test_a_call_python_would_refuse_is_refused_and_says_why() -> None:
    assert refused(thumbnail) == {"path": ["required, but not given."]}
    assert refused(thumbnail, "a", sise=3) == {"sise": ["there is no such argument."]}
    assert refused(thumbnail, "a", path="b") == {"path": ["given twice, by position and by name."]}
    assert refused(thumbnail, "a", 1, 2) == {"args": ["takes 2 positional arguments, but 3 were given."]}


def test_python_is_told_what_to_give_and_a_reader_of_json_what_to_write() -> None:
    cases: list[tuple[Any, Any, str, str]] = [
        (Decimal, 1.5, "Give a finite Decimal.", 'Not a valid decimal; write it as a string, such as "9.99".'),
        (date, "2026-07-02", "Give a datetime.date.", "Not a valid date (YYYY-MM-DD)."),
        (datetime, 3, "Give a datetime.datetime.", "Not a valid datetime of RFC 3339."),
        (UUID, "x", "Give a uuid.UUID.", "Not a valid UUID."),
        (set[int], [1], "Give a set or frozenset.", "Not a valid list."),
        (tuple[int, str], [1, 2], "Give a tuple of 2 items.", "Not a valid list of 2 items."),
        (dict[str, int], [1], "Give a dict.", "Not a valid object."),
        (Colour, "red", "Give a member of Colour.", "Must be one of: red."),
    ]
    for annotation, value, python, plain in cases:
        one = Validator(annotation)
        with pytest.raises(ValidationError) as caught:
            one.dump(value)
        assert caught.value.errors == {"_schema": [python]}
        with pytest.raises(ValidationError) as caught:
            one.load(object())
        assert caught.value.errors == {"_schema": [plain]}


def test_all_that_does_not_fit_is_named_at_once() -> None:
    errors = refused(scalars, "s", "4", None, 1, o="x", u=1.5, bare=object())
    assert set(errors) == {"i", "f", "b", "o", "u", "anything", "bare"}
    nested = refused(rich, datetime.now(UTC), Colour.RED, {"id": 1}, by_id={"k": [Point("1")]})  # type: ignore[arg-type]
    assert set(nested) == {"order", "by_id"}


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        math.nan,
        math.inf,
        "\ud800",
        ["\udfff"],
        [2**64],
        {"k": math.nan},
        b"bytes",
        pytest.param(object(), id="an object"),
        {1, 2},
        {1: "key"},
        datetime(2026, 7, 2, 16, 52, tzinfo=UTC),
        UUID(int=1),
        Colour.RED,
        Point(1),
    ],
    ids=repr,
)
def test_what_json_cannot_carry_unchanged_is_no_value_of_an_unannotated_argument(value: object) -> None:
    def unannotated(value):  # type: ignore[no-untyped-def]
        """Takes anything."""

    def loosely(value: dict[str, Any]) -> None:
        """Says nothing of what is inside."""

    assert set(refused(unannotated, value)) == {"value"}
    assert set(refused(loosely, {"inside": value})) == {"value"}


def test_nesting_without_end_is_refused() -> None:
    deep: list[Any] = []
    deep.append(deep)
    errors = refused(lambda value: None, deep)
    assert errors == {"value": ["Nested too deeply."]}


def test_json_values_pass_unannotated() -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert there_and_back(lambda value: None, value) == ([value], {})
    assert there_and_back(lambda value: None, (1, (2,))) == ([[1, [2]]], {})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.text(st.characters(exclude_categories=())),
    st.lists(st.integers(), max_size=2),
)


@given(st.lists(VALUES, min_size=8, max_size=8), st.integers(0, 8))
def test_fast_path_and_marshmallow_accept_and_write_the_same(values: list[Any], by_position: int) -> None:
    # Given one call
    names = list(inspect.signature(scalars).parameters)
    args, kwargs = values[:by_position], dict(zip(names[by_position:], values[by_position:], strict=True))
    made = Arguments(scalars, "shop.scalars")

    def outcome() -> object:
        try:
            return made.encode(args, kwargs)
        except ValidationError as error:
            return error.errors

    # When it is encoded with and without the fast path
    fast = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "_plain", lambda plans, args, kwargs: False)
        slow = outcome()
        decoded = Arguments(scalars, "shop.scalars").decode(slow) if isinstance(slow, bytes) else None
    # Then both say the same, and so do both ways of decoding
    assert fast == slow
    if isinstance(fast, bytes):
        for _ in range(2):  # the second time it is known what such a call looks like
            found = made.decode(fast)
            assert decoded is not None and (list(found[0]), dict(found[1])) == (list(decoded[0]), dict(decoded[1]))


JSON_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
JSON_TEXTS = st.one_of(
    JSON_NUMBERS,
    st.sampled_from(["true", "false", "null", "[]", "{}", "[1]", '"\\ud800"', '"\\u00e9"', "nul", "1 ", ""]),
    st.sampled_from([str(2**63 - 1), str(2**63), str(-(2**63)), str(-(2**63) - 1), "1e999", "-0", "-0.0"]),
    st.text(max_size=3).map(lambda text: f'"{text}"'),
)


@given(st.lists(JSON_TEXTS, min_size=1, max_size=8), st.integers(0, 8))
def test_a_body_is_read_the_same_whether_its_like_was_seen_or_not(texts: list[str], by_position: int) -> None:
    # Given a body that anybody may have written
    names = list(inspect.signature(scalars).parameters)
    args, named = texts[:by_position], zip(names[by_position:], texts[by_position:], strict=False)
    said = ",".join(f'"{name}":{text}' for name, text in named)
    body = f'{{"args":[{",".join(args)}],"kwargs":{{{said}}}}}'.encode(errors="surrogatepass")
    made = Arguments(scalars, "shop.scalars")

    def read() -> object:
        try:
            found = made.decode(body)
        except InvalidMessage as error:
            return str(error)
        return [(type(value), repr(value)) for value in (*found[0], *found[1].values())], list(found[1])

    # When it is read by the decoder of scalars, again where calls of its shape are known, and by marshmallow
    first, second = read(), read()
    made._scalars = False
    # Then all three say the same
    assert first == second == read()


@given(st.integers(0, 4), st.sets(st.sampled_from(["first", "second", "third", "only", "other"])))
def test_a_call_binds_exactly_where_python_binds_it(count: int, named: set[str]) -> None:
    def plain(first, /, second, third=0, *, only, other=0):  # type: ignore[no-untyped-def]
        """No rest."""

    def open_ended(first, /, second, *rest, only, **named):  # type: ignore[no-untyped-def]
        """Takes the rest."""

    for function in (plain, open_ended):
        args, kwargs = (1,) * count, dict.fromkeys(named, 1)
        try:
            inspect.signature(function).bind(*args, **kwargs)
            binds = True
        except TypeError:
            binds = False
        if binds:
            assert there_and_back(function, *args, **kwargs) == (list(args), kwargs)
        else:
            refused(function, *args, **kwargs)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"args":{}}',
        b'{"kwargs":[]}',
        b'{"args":["a"],"kwargs":{"path":"b"}}',
        b"[" * 9999,
        b"{}",
        b'{"args":[1]}',
        b'{"args":["a"],"kwargs":{"sise":1}}',
        b'{"args":["a",18446744073709551616]}',
    ],
    ids=repr,
)
def test_a_body_that_is_no_call_of_the_task_is_an_invalid_message(body: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"^shop\.thumbnail: "):
        Arguments(thumbnail, "shop.thumbnail").decode(body)


def test_annotations_that_cannot_travel_are_configuration_errors() -> None:
    def unknown(value: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Names what the module does not have."""

    def unsupported(value: bytes) -> None:
        """JSON has no bytes."""

    with pytest.raises(ConfigError, match=r"shop\.task: an annotation names 'Nowhere'"):
        Arguments(unknown, "shop.task")
    with pytest.raises(ConfigError, match=r"shop\.task: argument value: type bytes is not supported"):
        Arguments(unsupported, "shop.task")


def test_a_return_annotation_of_another_world_harms_nothing() -> None:
    def known_to_mypy_only(value: int) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        """Imported under TYPE_CHECKING."""

    assert there_and_back(known_to_mypy_only, 1) == ([1], {})
    made = ReturnValue(known_to_mypy_only, "shop.task")
    assert made.load(made.dump([1])) == [1]


def test_values_come_back_as_annotated_or_as_plain_json() -> None:
    def order() -> Order: ...  # type: ignore[empty-body]

    made = ReturnValue(order, "shop.order")
    value = Order(id=UUID(int=5), total=Decimal("9.90"), points=[Point(1, 2)])
    assert made.load(made.dump(value)) == value
    assert made.load(msgspec.Raw(made.dump("not an order after all"))) == "not an order after all"
    assert made.load(made.dump(None)) is None
    with pytest.raises(ValidationError):
        made.dump(object())
