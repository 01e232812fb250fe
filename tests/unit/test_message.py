"""Messages on the wire: what is written is read again, and nothing else than InvalidMessage comes of anything else."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.errors import InvalidMessage, ValidationError
from taskstream.message import (
    MESSAGE_ID,
    Delivery,
    Message,
    derived_id,
    encode_json,
    fields_json,
    fields_of,
    from_fields,
    from_fields_json,
    new_id,
)

PLAIN: list[str | bytes] = ["v", b"1", "id", "m1", "name", "n", "body", b"{}"]

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
messages = st.builds(
    Message,
    id=st.from_regex(MESSAGE_ID, fullmatch=True),
    name=text,
    body=text.map(str.encode),
    headers=st.none() | st.dictionaries(text, json_values, min_size=1, max_size=4),
    attempt=st.integers(1, 2**31 - 1),
    deliveries=st.integers(0, 2**31 - 1),
    sent_ms=st.none() | st.integers(0, 2**53 - 1),
    priority=st.integers(0, 9),
    expires_ms=st.none() | st.integers(0, 2**53 - 1),
)


def wire(fields: list[str | bytes]) -> list[bytes]:
    return [item.encode() if isinstance(item, str) else item for item in fields]


@given(messages)
def test_what_is_written_is_read_again(message: Message) -> None:
    assert from_fields(wire(fields_of(message))) == message
    assert from_fields_json(fields_json(message)) == message
    after_a_while = msgspec.structs.replace(message, expires_ms=None, expires_in_ms=message.expires_ms)
    assert from_fields(wire(fields_of(after_a_while))) == after_a_while


KNOWN = st.sampled_from(
    [b"v", b"1", b"id", b"name", b"body", b"headers", b"attempt", b"deliveries", b"sent", b"priority", b"expires"]
)
VALUES = st.sampled_from(
    [b"{}", b"0", b"-1", b" 7", b"1_0", b"9" * 30, b"9" * 5000, b'{"a":"\\ud800"}', b"[]", b"\xff"]
)


@given(st.lists(st.binary() | KNOWN | VALUES, max_size=20))
@example([b"v", b"1", b"id", b"m", b"name", b"n", b"body", b"\xff"])
@example([b"v", b"1", b"id", b"m", b"name", b"n", b"body", b"\xff", b"attempt", b"2"])
@example(
    [b"v", b"1", b"id", b"m", b"name", b"n", b"body", b"{}", b"headers", b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}"]
)
def test_any_fields_are_a_message_or_invalid(fields: list[bytes]) -> None:
    check_readable(fields)


@given(st.dictionaries(KNOWN, VALUES | st.binary(), max_size=9), st.sampled_from([b"1", b"2"]))
def test_any_values_are_a_message_or_invalid(values: dict[bytes, bytes], version: bytes) -> None:
    complete = {b"v": b"1", b"id": b"m", b"name": b"n", b"body": b"{}"} | values | {b"v": version}
    check_readable([part for pair in complete.items() for part in pair])


def check_readable(fields: list[bytes]) -> None:
    try:
        message = from_fields(fields)
    except InvalidMessage as error:
        assert str(error).isprintable()
        return
    # Whatever was accepted can be put back, retried and buried: nothing in it may surprise later.
    written = msgspec.structs.replace(message, headers=message.headers or None)
    assert from_fields_json(fields_json(message)) == written
    assert from_fields(wire(fields_of(message))) == written


@given(st.binary() | text.map(str.encode))
def test_any_bytes_are_a_resting_message_or_invalid(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        from_fields_json(raw)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["attempt", b"0"], "out of range"),
        (["attempt", b"x"], "cannot be decoded"),
        (["deliveries", b"-1"], "out of range"),
        (["sent", b"1e3"], "cannot be decoded"),
        (["sent", str(2**53).encode()], "out of range"),
        (["priority", b"10"], "priority or expires is out of range"),
        (["priority", b""], "cannot be decoded"),
        (["expires", b"-1"], "priority or expires is out of range"),
        (["expires", b"++1"], "cannot be decoded"),
        (["expires", f"+{2**53}".encode()], "priority or expires is out of range"),
        (["headers", b"[]"], "cannot be decoded"),
        (["headers", b"{"], "cannot be decoded"),
    ],
)
def test_what_is_wrong_is_said(more: list[str | bytes], reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        from_fields(wire(PLAIN + more))


@pytest.mark.parametrize("bad", [b"", b"two words", b"line\n", b"i" * 129, "\u00e9".encode()])
@pytest.mark.parametrize("more", [[], ["attempt", b"2"]], ids=["as delay() writes it", "with more fields"])
def test_an_id_of_another_form_is_refused(bad: bytes, more: list[str | bytes]) -> None:
    with pytest.raises(InvalidMessage, match="is not made of"):
        from_fields(wire(["v", b"1", "id", bad, *PLAIN[4:], *more]))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(("depth", "fits"), [(63, True), (64, False), (900, False), (99_999, False)])
def test_headers_are_nested_64_deep_at_most(opening: str, depth: int, fits: bool) -> None:
    # Deeper ones might be read here and not be written where more of the stack is in use.
    closing = "]" if opening == "[" else "}"
    headers = f'{{"h":{opening * depth}{closing * depth}}}'.replace(":}", ":1}").encode()
    fields = wire([*PLAIN, "headers", headers])
    if fits:
        assert from_fields(fields).headers is not None
    else:
        with pytest.raises(InvalidMessage, match="decoded"):
            from_fields(fields)


def test_wide_headers_are_not_deep_ones() -> None:
    wide = {"h": [[{}]] * 1000}
    assert from_fields(wire([*PLAIN, "headers", encode_json(wide)])).headers == wide


@pytest.mark.parametrize("missing", ["v", "id", "name", "body"])
def test_a_missing_field_is_named(missing: str) -> None:
    at = PLAIN.index(missing)
    with pytest.raises(InvalidMessage, match=f"field '{missing}' is missing"):
        from_fields(wire(PLAIN[:at] + PLAIN[at + 2 :]))


def test_the_order_of_fields_does_not_matter_and_unknown_ones_are_ignored() -> None:
    pairs = [PLAIN[at : at + 2] for at in range(0, 8, 2)]
    later: list[str | bytes] = ["later", b"\xff"]
    for turned in (pairs[::-1], [later, *pairs], [*pairs, later]):
        assert from_fields(wire([part for pair in turned for part in pair])) == Message("m1", "n", b"{}")


@pytest.mark.parametrize("more", [[], ["attempt", b"2"]], ids=["as delay() writes it", "with more fields"])
def test_another_version_is_refused(more: list[str | bytes]) -> None:
    with pytest.raises(InvalidMessage, match="format version b'2'"):
        from_fields(wire(["v", b"2", *PLAIN[2:], *more]))


def test_only_what_says_something_is_written() -> None:
    assert fields_of(Message("m1", "n", b"{}")) == PLAIN
    assert fields_of(Message("m1", "n", b"{}", {}, 1, 0, None)) == PLAIN
    assert fields_of(Message("m1", "n", b"{}", {"a": 1}, 2, 3, 0)) == [
        *PLAIN,
        *("headers", b'{"a":1}', "attempt", "2", "deliveries", "3", "sent", "0"),
    ]
    assert fields_of(Message("m1", "n", b"{}", priority=5, expires_ms=7)) == [*PLAIN, "expires", "7"]
    assert fields_of(Message("m1", "n", b"{}", priority=0, expires_in_ms=0)) == [
        *PLAIN,
        *("priority", "0", "expires", "+0"),
    ]


def test_ids() -> None:
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000 and all(MESSAGE_ID.fullmatch(one) for one in made)
    assert all(uuid.UUID(one).version == 7 for one in made)


@given(text, text)
def test_derived_ids_are_repeatable_and_keep_the_time(parent: str, step: str) -> None:
    assert derived_id(parent, step) == derived_id(parent, step) != derived_id(parent, step + "x")
    first = new_id()
    derived = uuid.UUID(derived_id(first, step))
    assert derived.bytes[:6] == uuid.UUID(first).bytes[:6]
    assert (derived.version, derived.variant) == (7, uuid.RFC_4122)


def test_derived_ids_do_not_run_parent_and_step_together() -> None:
    assert derived_id("ab", "c") != derived_id("a", "bc")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [None, True, 1.5, "ü"]}, '{"a":[null,true,1.5,"ü"]}'),
        (uuid.UUID(int=0), '"00000000-0000-0000-0000-000000000000"'),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), '"2026-01-02T00:00:00Z"'),
    ],
)
def test_json_of_plain_values(value: Any, expected: str) -> None:
    assert encode_json(value) == expected.encode()


def test_what_json_cannot_carry_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in (object(), endless, "\ud800", {"a": {1j}}):
        with pytest.raises(ValidationError, match="not serialisable as JSON"):
            encode_json(value)


def test_a_delivery_knows_when_it_was_first_sent() -> None:
    first = Delivery(Message("m", "n", b""), "s", "g", "1790000000000-3", 1)
    assert first.sent_ms == 1790000000000
    again = Delivery(Message("m", "n", b"", sent_ms=1780000000000), "s", "g", "1790000000000-3", 2, from_again=True)
    assert again.sent_ms == 1780000000000


def test_a_delivery_knows_until_when_it_may_start() -> None:
    for said, expires_ms in (({}, None), ({"expires_ms": 5}, 5), ({"expires_in_ms": 7}, 1790000000007)):
        message = Message("m", "n", b"", **said)  # type: ignore[arg-type]
        assert Delivery(message, "s", "g", "1790000000000-3", 1).expires_ms == expires_ms
    put_back = Message("m", "n", b"", sent_ms=5, expires_in_ms=7)
    assert Delivery(put_back, "s", "g", "1790000000000-3", 1, from_again=True).expires_ms == 12
