"""JSON straight to dataobjects: the same values as through plain ones, and everything else is left to those."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream import dataobjects
from taskstream.dataobjects import Validator, dataobject, object_type
from taskstream.errors import ValidationError


class Status(enum.Enum):
    NEW = "NEW"
    ODD = "é"


class Guessing(enum.Enum):
    NEW = "NEW"

    @classmethod
    def _missing_(cls, value: object) -> Guessing:
        return cls.NEW


class Number(enum.IntEnum):
    ONE = 1


@dataobject
class Flat:
    text: str
    number: int
    share: float
    flag: bool
    status: Status
    tags: list[str]
    grid: list[list[float]]
    maybe: Optional[int]  # noqa: UP045 - both spellings are in use
    note: str | None = None
    size: int = 7
    more: list[int | None] = dataclasses.field(default_factory=list)


@dataobject
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("must be even")


@dataobject
@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    label: str = "none"
    number: int


KINDS = (Flat, Even, Frozen)
RIGHT: dict[str, Any] = {
    "text": st.text(st.characters(codec="utf-8"), max_size=6),
    "number": st.integers(-(2**63), 2**63 - 1),
    "share": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70),
    "flag": st.booleans(),
    "status": st.sampled_from(["NEW", "é"]),
    "tags": st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=3),
    "grid": st.lists(
        st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=2), max_size=2
    ),
    "maybe": st.none() | st.integers(-(2**63), 2**63 - 1),
    "note": st.none() | st.text(st.characters(codec="utf-8"), max_size=3),
    "size": st.integers(-(2**63), 2**63 - 1),
    "more": st.lists(st.none() | st.integers(0, 9), max_size=3),
    "label": st.text(st.characters(codec="utf-8"), max_size=3),
}
WRONG = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [2**63, -(2**63) - 1, 2**64, 10**310, "1", "new", "", 1.0, -0.0, 1e308, {}, [], [[1, "a"]], ["a", 1]]
    )
    | st.floats()
    | st.text()
    | st.lists(st.integers() | st.text(max_size=2), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
)
# As text, because no value of Python is written so.
ODD = [
    *("-0", "1.0", "1e2", "-0.0", "1E400", "01", "1.", "+1", "0x1", "NaN", "Infinity", "-Infinity", "9" * 25),
    *("1" + "0" * 300, "9223372036854775808", "18446744073709551617", "9007199254740993", "4.9e-324", "1e-400"),
    *("9" * 5000, "tru", "nul", "", r'"\ud800"', r'"\ud83d\ude00"', r'"\u0000"', '"\x01"', r'"\x"', '"'),
    *('"NEW"', r'"\u004eEW"', "[1,]", "[[]]", "{}"),
]
RAW = st.sampled_from(ODD)


@st.composite
def nearly(draw: st.DrawFn, kind: type[Any]) -> bytes:
    """A JSON object that is right for a class, but for a few members that are wrong, missing, doubled or too many."""
    parts: list[tuple[str, str]] = []
    for field in dataclasses.fields(kind):
        text = json.dumps(draw(RIGHT[field.name]), ensure_ascii=draw(st.booleans()))
        parts.append((json.dumps(field.name), text))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(parts) - 1)) if parts else 0
        match draw(st.sampled_from(["wrong", "raw", "missing", "double", "unknown", "escaped"])):
            case "wrong" if parts:
                parts[at] = (parts[at][0], json.dumps(draw(WRONG)))
            case "raw" if parts:
                parts[at] = (parts[at][0], draw(RAW))
            case "missing" if parts:
                del parts[at]
            case "double" if parts:
                parts.append((parts[at][0], draw(RAW | st.just(parts[at][1]) | WRONG.map(json.dumps))))
            case "escaped" if parts:
                parts[at] = (f'"\\u{ord(parts[at][0][1]):04x}{parts[at][0][2:]}', parts[at][1])
            case _:
                parts.append((json.dumps(draw(st.text(max_size=3))), draw(RAW)))
    body = "{" + ", ".join(f"{name}: {text}" for name, text in parts) + "}"
    body = (
        draw(st.sampled_from(["", " ", "\n", "\ufeff"]))
        + body
        + draw(st.sampled_from(["", " ", "x", "{}", ","]) | st.just(""))
    )
    found = body.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0 and found:  # bytes that are no UTF-8, anywhere
        at = draw(st.integers(0, len(found)))
        found = found[:at] + draw(st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00"])) + found[at:]
    return found


def outcome(validator: Validator, body: bytes) -> tuple[str, object]:
    """What was read, by its repr (-0.0 is not 0.0, 1.0 not 1), or why it was refused."""
    try:
        found = validator.load_json(body)
    except ValidationError as error:
        return str(error), error.errors
    return "read", repr(found)


def both(kind: type[Any]) -> tuple[Validator, Validator]:
    """One that reads straight where it can, and one that never does."""
    straight, through_plain = Validator(kind), Validator(kind)
    assert straight._decode is not None
    through_plain._decode = None
    return straight, through_plain


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_reads_exactly_what_is_read_through_plain_values(kind: type[Any], data: st.DataObject) -> None:
    body = data.draw(nearly(kind) | st.binary(max_size=8) | WRONG.map(lambda value: json.dumps(value).encode()))
    straight, through_plain = both(kind)
    assert outcome(straight, body) == outcome(through_plain, body)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Flat)])
def test_odd_values_of_each_field_are_read_alike(field: str) -> None:
    straight, through_plain = both(Flat)
    parts = {"text": '"a"', "number": "1", "share": "0.5", "flag": "true", "status": '"NEW"', "tags": "[]"}
    parts |= {"grid": "[[1]]", "maybe": "null"}
    for odd in (*ODD, "null", "true", "0", '"1"', "[null]", '["a"]', "[1]", "[[1]]", '[["a"]]', "[true]", "[1.0]"):
        text = ", ".join(f'"{name}": {value}' for name, value in {**parts, field: odd}.items())
        assert outcome(straight, f"{{{text}}}".encode()) == outcome(through_plain, f"{{{text}}}".encode()), odd


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_right_is_read_straight(kind: type[Any], data: st.DataObject) -> None:
    given = {field.name: data.draw(RIGHT[field.name]) for field in dataclasses.fields(kind)}
    body = json.dumps(given).encode()
    try:
        expected = repr(dataobjects.load(kind, json.loads(body)))
    except ValidationError:
        return  # an odd number, an integer beyond all floats
    decode = object_type(kind).decode
    assert decode is not None
    assert repr(decode(body)) == expected


def test_what_is_not_plain_has_no_decoder() -> None:
    @dataobject
    class Nested:
        inner: Even

    @dataobject
    class Guessed:
        by: Guessing

    @dataobject
    class Numbered:
        by: Number

    @dataobject
    class Whatever:
        value: Any

    @dataobject
    class Several:
        value: int | str

    @dataobject
    class Unordered:
        value: set[int]

    @dataobject(unknown="exclude")
    class Lenient:
        text: str

    for kind in (Nested, Guessed, Numbered, Whatever, Several, Unordered, Lenient):
        assert object_type(kind).decode is None, kind
