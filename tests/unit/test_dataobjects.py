"""Dataobjects: what is accepted and refused, that the fast path agrees with marshmallow, and round trips."""

from __future__ import annotations

# ruff: noqa: UP007, UP045 - payloads are written with Optional and Union too, so both spellings are tested
import dataclasses
import datetime as dt
import enum
import json
import threading
import typing
import uuid
from decimal import Decimal
from typing import Any, Literal, NewType, Optional, Union

import marshmallow as ma
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream import hints
from taskstream.dataobjects import Validator, dataobject, dump, dump_json, load, load_json
from taskstream.errors import ConfigError, ValidationError

UserId = NewType("UserId", int)


class Status(enum.Enum):
    NEW = "NEW"
    VALID = "VALID"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    YES = True
    ONE = 2
    TEXT = "t"


@dataobject
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Plain:
    name: str
    tags: list[str] = dataclasses.field(default_factory=list)


@dataobject
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)
    parent: Optional[Tree] = None


@dataobject(unknown="exclude")
class Lenient:
    text: str


@dataobject
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("must be even")


@dataobject
class Everything:
    text: str
    number: int
    share: float
    flag: bool
    moment: dt.datetime
    day: dt.date
    key: uuid.UUID
    price: Decimal
    status: Status
    level: Level
    mixed: Mixed
    user: UserId
    maybe: Optional[int]
    either: Union[int, float, None]
    kind: Literal["a", "b", 3]
    point: Point
    plain: Plain
    tree: Tree
    items: list[Point]
    row: tuple[int, str]
    many: tuple[int, ...]
    unique: set[int]
    table: dict[str, Point]
    numbers: dict[int, bool]
    by_status: dict[Status, float]
    by_day: dict[dt.date, int]
    anything: Any
    bare: dict  # type: ignore[type-arg]
    point_or_text: Point | str


texts = st.text(st.characters(codec="utf-8"), max_size=8)
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Point, x=ints, y=ints)
leaf_trees = st.builds(Tree, name=texts)
offsets = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
plain_json = st.recursive(
    st.none() | st.booleans() | ints | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
everything = st.builds(
    Everything,
    text=texts,
    number=ints,
    share=floats,
    flag=st.booleans(),
    moment=st.datetimes() | st.datetimes(timezones=offsets),
    day=st.dates(),
    key=st.uuids(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    status=st.sampled_from(Status),
    level=st.sampled_from(Level),
    mixed=st.sampled_from(Mixed),
    user=ints.map(UserId),
    maybe=st.none() | ints,
    either=st.none() | ints | floats,
    kind=st.sampled_from(("a", "b", 3)),
    point=points,
    plain=st.builds(Plain, name=texts, tags=st.lists(texts, max_size=3)),
    tree=st.recursive(
        leaf_trees, lambda inner: st.builds(Tree, name=texts, children=st.lists(inner, max_size=2), parent=inner)
    ),
    items=st.lists(points, max_size=3),
    row=st.tuples(ints, texts),
    many=st.lists(ints, max_size=3).map(tuple),
    unique=st.sets(ints, max_size=3),
    table=st.dictionaries(texts, points, max_size=3),
    numbers=st.dictionaries(ints, st.booleans(), max_size=3),
    by_status=st.dictionaries(st.sampled_from(Status), floats, max_size=2),
    by_day=st.dictionaries(st.dates(), ints, max_size=2),
    anything=plain_json,
    bare=st.dictionaries(texts, plain_json, max_size=2),
    point_or_text=points | texts,
)
ANNOTATIONS: list[Any] = [*typing.get_type_hints(Everything).values(), Everything, Lenient, Even, None]

# Anything a caller might hand over, also what no JSON parser returns.
hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF))
    | st.sampled_from(
        [1, 2, 3, "a", "b", "t", "NEW", "VALID", "2020-01-01", "2020-02-30", "2020-01-01T00:00:00Z", "1.5", "-0"]
    )
    | st.sampled_from(
        ["9.99", "1e5", "NaN", "Infinity", "1_0", " 1", "07", str(2**63), "9" * 5000, str(uuid.UUID(int=7))]
    )
    | st.sampled_from([2**63, 2**64, 10**400, 1.0, True])
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["x", "y", "name", "children", "number", "1"]), inner)
    ),
    max_leaves=6,
)


def outcome(convert: Any, value: Any) -> tuple[str, Any]:
    try:
        found = convert(value)
    except (ValidationError, ma.ValidationError):
        return "refused", None
    return "accepted", (type(found), repr(found))


@given(everything)
@settings(max_examples=25, deadline=None)
def test_round_trip_through_json(value: Everything) -> None:
    assert load_json(Everything, dump_json(value)) == value


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@given(value=hostile)
@settings(max_examples=25, deadline=None)
def test_fast_path_accepts_exactly_what_marshmallow_accepts(annotation: Any, value: Any) -> None:
    validator = Validator(annotation)
    read = validator.field.reader()
    by_schema = outcome(validator.field.deserialize, value)
    try:
        fast: Any = ("accepted", (type(read(value)), repr(read(value))))
    except Exception as error:
        assert type(error).__name__ == "Mismatch"
        fast = ("refused", None)
    assert fast == by_schema
    assert outcome(validator.load, value) == by_schema
    if by_schema[0] == "accepted":
        # What was accepted can be written, and read again as the same.
        found = validator.load(value)
        assert validator.load(json.loads(validator.dump_json(found))) == found


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@given(
    value=hostile | everything | points | st.sampled_from([*Status, *Level, *Mixed]) | st.decimals() | st.datetimes()
)
@settings(max_examples=25, deadline=None)
def test_fast_writing_agrees_with_marshmallow(annotation: Any, value: Any) -> None:
    validator = Validator(annotation)
    write = validator.field.writer()
    by_schema = outcome(lambda found: validator.field._serialize(found, None, None), value)
    try:
        fast: Any = ("accepted", (type(write(value)), repr(write(value))))
    except Exception as error:
        assert type(error).__name__ == "Mismatch"
        fast = ("refused", None)
    assert fast == by_schema


def test_dataobject_is_a_dataclass_with_positional_fields() -> None:
    assert Point(1) == Point(x=1, y=0)
    assert dump(Point(1)) == {"x": 1, "y": 0}
    assert load(Point, {"x": 1}) == Point(1, 0)


def test_decorator_keeps_a_dataclass_made_by_hand() -> None:
    @dataobject
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        a: int

    assert hash(load(Frozen, {"a": 1})) == hash(Frozen(1))


def test_enum_goes_by_value() -> None:
    assert dump_json([Status.VALID]) == b'["VALID"]'
    assert load(Status, "VALID") is Status.VALID
    assert load(Mixed, True) is Mixed.YES
    with pytest.raises(ValidationError, match="Must be one of: NEW, VALID"):
        load(Status, "valid")
    with pytest.raises(ValidationError):
        load(Level, True)  # True == 1


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (b"", "_schema", "Not valid JSON"),
        (b'{"x": 1', "_schema", "Not valid JSON"),
        (b'{"x": "\xff"}', "_schema", "Not valid JSON"),
        (b'{"x": NaN}', "_schema", "Not valid JSON"),
        (b'{"x": 1e999}', "_schema", "Not valid JSON"),
        (b'{"x": "\\ud800"}', "_schema", "Not valid JSON"),
        (b"[" * 200_000, "_schema", "Nested too deeply"),
        (b"null", "_schema", "may not be null"),
        (b"[1]", "_schema", "Invalid input type"),
        (b"7", "_schema", "Invalid input type"),
        (b"{}", "x", "Missing data"),
        (b'{"x": null}', "x", "may not be null"),
        (b'{"x": "1"}', "x", "Not a valid integer"),
        (b'{"x": true}', "x", "Not a valid integer"),
        (b'{"x": 1.0}', "x", "Not a valid integer"),
        (b'{"x": 9223372036854775808}', "x", "Not a valid integer of at most 64 bits"),
        (b'{"x": 1, "z": 2}', "z", "Unknown field"),
    ],
)
def test_bad_input_is_a_validation_error_by_field(body: bytes, field: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        load_json(Point, body)
    assert list(caught.value.errors) == [field]
    assert reason in str(caught.value.errors[field])
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_an_object_or_a_validation_error(body: bytes) -> None:
    outcome(lambda text: load_json(Everything, text), body)


def test_errors_of_nested_objects_name_the_path() -> None:
    with pytest.raises(ValidationError) as caught:
        load(Tree, {"name": "a", "children": [{"name": "b"}, {"name": 1}]})
    assert caught.value.errors == {"children": {"1": {"name": ["Not a valid string."]}}}
    assert str(caught.value) == "Tree: children.1.name: Not a valid string."


def test_deep_nesting_is_refused_both_ways() -> None:
    deep: dict[str, Any] = {"name": "leaf"}
    tree = Tree("leaf")
    for _ in range(3000):
        deep = {"name": "n", "parent": deep}
        tree = Tree("n", [], tree)
    with pytest.raises(ValidationError, match="Nested too deeply"):
        load(Tree, deep)
    with pytest.raises(ValidationError, match="Nested too deeply"):
        dump(tree)


def test_errors_are_bounded() -> None:
    with pytest.raises(ValidationError) as caught:
        load(Point, {"x": 1} | {f"{'k' * 1000}{number}": 1 for number in range(10_000)})
    assert len(str(caught.value)) < 20_000


def test_unknown_fields_are_dropped_where_the_class_says_so() -> None:
    assert load(Lenient, {"text": "a", "more": 1}) == Lenient("a")


def test_what_post_init_refuses_is_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="must be even"):
        load(Even, {"number": 1})


@pytest.mark.parametrize(
    ("value", "field"),
    [(Point("1"), "x"), (Point(2**63), "x"), (Plain("\ud800"), "name"), (Plain("a", ["b", 3]), "tags")],  # type: ignore[arg-type,list-item]
)
def test_dumping_checks_the_types_of_what_was_assigned(value: object, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        dump(value)
    assert list(caught.value.errors) == [field]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, "\ud800", object(), {1.5: 1}, b"x"])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        dump(value)


def test_any_dumps_values_by_their_own_type() -> None:
    value = {"a": (Point(1), {Status.NEW}), Status.VALID: dt.date(2020, 1, 2), 3: Decimal("1.50")}
    assert dump(value) == {"a": [{"x": 1, "y": 0}, ["NEW"]], "VALID": "2020-01-02", "3": "1.50"}


def test_order_of_a_union_is_not_mixed_up_by_the_cache() -> None:
    assert load(Union[str, dt.date], "2020-01-02") == "2020-01-02"
    assert load(Union[dt.date, str], "2020-01-02") == dt.date(2020, 1, 2)


def test_threads_that_come_while_a_schema_is_made_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    fields_of = hints.fields_of

    def slowly(kind: type[Any]) -> Any:
        if kind.__name__ == "Node":
            started.set()
            assert go_on.wait(10)
        return fields_of(kind)

    @dataobject
    class Node:
        x: int

    monkeypatch.setattr(hints, "fields_of", slowly)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(dump(Node(1)))) for _ in range(2)]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    threads[1].join(0.05)  # it must not get through: whatever it found now would be half made
    assert found == []
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == [{"x": 1}, {"x": 1}]


class NotSupported:
    pass


@pytest.mark.parametrize(
    "annotation", [NotSupported, complex, bytes, list[NotSupported], dict[float, int], dict[Optional[str], int], "text"]
)
def test_unsupported_type_is_a_config_error(annotation: Any) -> None:
    with pytest.raises(ConfigError, match="is not supported"):
        Validator(annotation)


def test_unsupported_field_names_class_and_field() -> None:
    @dataobject
    class Bad:
        fine: int
        wrong: complex

    with pytest.raises(ConfigError, match=r"Bad\.wrong: type complex is not supported"):
        load(Bad, {})


def test_unresolvable_annotation_names_class_and_field() -> None:
    @dataobject
    class Bad:
        fine: int
        wrong: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match=r"Bad\.wrong: .*Nowhere"):
        load(Bad, {})


def test_class_that_cannot_be_made_from_its_fields_is_a_config_error() -> None:
    @dataobject
    class Bad:
        fine: int
        hidden: dataclasses.InitVar[int]

    with pytest.raises(ConfigError, match=r"Bad\.hidden"):
        load(Bad, {})


def test_wrong_option_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="exclude"):
        dataobject(unknown="include")
