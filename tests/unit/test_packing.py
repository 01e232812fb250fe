"""A message's XADD in one go: byte by byte what the client library packs from its fields."""

from __future__ import annotations

import hiredis
import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.broker.packing import pack_xadd
from taskstream.message import MESSAGE_ID, Message, fields_of

text = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.builds(
    Message,
    id=st.from_regex(MESSAGE_ID, fullmatch=True) | text,
    name=text,
    body=text.map(str.encode) | st.binary(),
)
messages = plain | st.builds(
    msgspec.structs.replace,
    plain,
    headers=st.none() | st.dictionaries(text, st.none() | st.integers(0, 9) | text, max_size=3),
    attempt=st.integers(1, 9),
    deliveries=st.integers(0, 9),
    sent_ms=st.none() | st.integers(0, 2**53 - 1),
    priority=st.integers(0, 9),
    expires_ms=st.none() | st.integers(0, 2**53 - 1),
    expires_in_ms=st.none() | st.integers(0, 2**53 - 1),
)


@given(text, messages)
@example("shop", Message("m", "shop.noop", b"\r\n$5\r\n%d %b {}"))
@example("größe", Message("ä", "naïve", b""))
def test_both_ways_give_the_same_bytes(stream: str, message: Message) -> None:
    assert pack_xadd(stream, message) == hiredis.pack_command(("XADD", stream, "*", *fields_of(message)))
