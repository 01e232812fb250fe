"""What travels: a message, and its form on the wire (one flat stream entry, JSON bodies).

The form is documented for other languages in docs/wire.md. Nothing here talks to Redis.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import uuid_utils

from taskstream.errors import InvalidMessage, ValidationError

VERSION = b"1"

_PLAIN = [b"v", b"id", b"name", b"body"]

ID_SIZE = 128

MESSAGE_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{ID_SIZE}}}")
"""What an id may look like. Taskstream's own are UUIDv7 (RFC 9562), whose text sorts by time."""

HEADERS_DEPTH = 64

OWN_HEADERS = "ts-"
"""What the names of headers begin with that are Taskstream's own: they concern one message in one group, and are
handed on to nothing that it publishes."""

HISTORY_HEADER = f"{OWN_HEADERS}history"
"""How a requeued message died before: see taskstream.broker.letters."""

UNKNOWN_HEADER = f"{OWN_HEADERS}unknown"
"""How often a message was put back because no handler of that name was there."""

DEATHS_HEADER = f"{OWN_HEADERS}deaths"
"""How many worker processes had died under a message when it was put back: whoever reads it next is to know."""

THEN_HEADER = f"{OWN_HEADERS}then"
"""What follows a message of a workflow: see taskstream.continuation."""

FAILED_HEADER = f"{OWN_HEADERS}failed"
"""Why a message is not to be run but to end at once: what it was to follow has failed."""

PARENT_HEADER = f"{OWN_HEADERS}parent"
"""Id of the message whose run published this one."""

ROOT_HEADER = f"{OWN_HEADERS}root"
"""Id of the message that all of this began with, where that is another one."""

GROUP_HEADER = f"{OWN_HEADERS}group"
"""Id of the group that the message belongs to."""

REPLAY_HEADER = f"{OWN_HEADERS}replay"
"""Which replay runs the message again: what it publishes then is not what it published before."""

ORDER_HEADER = f"{OWN_HEADERS}order"
"""The ordering key of a message: its end lets the next one of that key run."""

UNIQUE_HEADER = f"{OWN_HEADERS}unique"
"""Which call of a unique task a message is: its end lets that be sent again."""

PLACE_HEADERS = frozenset(
    {THEN_HEADER, PARENT_HEADER, ROOT_HEADER, GROUP_HEADER, ORDER_HEADER, UNIQUE_HEADER, REPLAY_HEADER}
)
"""Those of Taskstream's own that say where a message belongs; it keeps them when it is requeued."""

ADMITTED_HEADER = f"{OWN_HEADERS}admitted"
"""When a message of a limited task was told to come (us since the epoch, as text): it is asked for once."""

PRIORITIES = range(10)
PRIORITY = 5
"""The priority of a message that says none; 0 comes first."""

_encode_json = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(dict[str, Any]).decode
_decode_fields = msgspec.json.Decoder(list[str]).decode


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message.

    ``id`` text of a UUIDv7, or the caller's own id; ``name`` handler (task) or type of the payload (event
    stream); ``body`` JSON as it is on the wire; ``headers`` tracking and the caller's own, absent where
    nothing set them; ``attempt`` which run this is, from 1; ``deliveries`` hand-outs to workers before
    this stream entry existed; ``sent_ms`` when it was first published (ms since the epoch), if that is
    not the time in the entry's own id; ``priority`` of PRIORITIES; ``expires_ms`` (ms since the epoch) or
    ``expires_in_ms`` (after it was sent) when it is too late to start it, by Redis' clock.
    """

    id: str
    name: str
    body: bytes
    headers: dict[str, Any] | None = None
    attempt: int = 1
    deliveries: int = 0
    sent_ms: int | None = None
    priority: int = PRIORITY
    expires_ms: int | None = None
    expires_in_ms: int | None = None


class Delivery(msgspec.Struct, gc=False):
    """A message as handed to a worker, to be run once.

    ``from_again`` says that it came through the group's own stream. ``number`` counts all hand-outs of
    the message in this group, from 1; the result store orders outcomes by it. ``deaths`` counts worker
    processes that died while it had started. ``published``: the ids of what its run has sent so far, None for nothing;
    all else never changes.
    """

    message: Message
    stream: str
    group: str
    entry_id: str
    number: int
    from_again: bool = False
    deaths: int = 0
    published: list[str] | None = None

    @property
    def sent_ms(self) -> int:
        """When the message was first published (ms since the epoch)."""
        return self.message.sent_ms or int(self.entry_id.partition("-")[0])

    @property
    def expires_ms(self) -> int | None:
        """When it is too late to start it (ms since the epoch, Redis' clock), None for never."""
        message = self.message
        if message.expires_in_ms is not None:
            return self.sent_ms + message.expires_in_ms
        return message.expires_ms


def new_id() -> str:
    """A fresh message id: UUIDv7 as text. Time-ordered ids keep the result store fast."""
    return str(uuid_utils.uuid7())


def handed_on(headers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The headers that what a message publishes gets: all but Taskstream's own."""
    if not headers:
        return None
    return {name: value for name, value in headers.items() if not name.startswith(OWN_HEADERS)} or None


def derived_id(parent: str, step: str) -> str:
    """The id of what ``parent`` publishes at ``step``: the same each time it is run again.

    Keeps the time of a UUIDv7 parent, so that derived ids stay time-ordered in the result store.
    """
    digest = bytearray(hashlib.sha256(f"{parent}\0{step}".encode()).digest()[:16])
    try:
        stamp = uuid.UUID(parent)
    except ValueError:
        stamp = None
    if stamp is not None and stamp.version == 7:
        digest[:6] = stamp.bytes[:6]
    digest[6] = 0x70 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(digest)))


def encode_json(value: object) -> bytes:
    """JSON bytes of plain values (None, bool, int, float, str, list, dict, datetime, UUID, Decimal, Enum).

    Raises ValidationError for what JSON cannot carry.
    """
    try:
        return _encode_json(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValidationError(f"not serialisable as JSON: {error}") from None


def check_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``headers`` that a worker can read. Raises ValidationError."""
    if not isinstance(headers, Mapping) or not all(isinstance(name, str) for name in headers):
        raise ValidationError("headers are a mapping of names to JSON values")
    try:
        return _headers(encode_json(dict(headers)))
    except (ValueError, msgspec.DecodeError) as error:
        raise ValidationError(str(error)) from None


def fields_of(message: Message) -> list[str | bytes]:
    """Flat field-value list for XADD; optional fields only where they say something."""
    return ["v", VERSION, "id", message.id, "name", message.name, "body", message.body, *extra_fields_of(message)]


def extra_fields_of(message: Message) -> Sequence[str | bytes]:
    """What follows the first four fields, which every message has; nothing for nearly all."""
    if (
        not message.headers
        and message.attempt == 1
        and not message.deliveries
        and message.sent_ms is None
        and message.priority == PRIORITY
        and message.expires_in_ms is None
        and message.expires_ms is None
    ):
        return ()
    fields: list[str | bytes] = []
    if message.headers:
        fields += ("headers", encode_json(message.headers))
    if message.attempt != 1:
        fields += ("attempt", str(message.attempt))
    if message.deliveries:
        fields += ("deliveries", str(message.deliveries))
    if message.sent_ms is not None:
        fields += ("sent", str(message.sent_ms))
    if message.priority != PRIORITY:
        fields += ("priority", str(message.priority))
    if message.expires_in_ms is not None:
        fields += ("expires", f"+{message.expires_in_ms}")
    elif message.expires_ms is not None:
        fields += ("expires", str(message.expires_ms))
    return fields


def fields_json(message: Message) -> str:
    """The same list as a JSON array: how a message rests in the delayed set and in a dead letter."""
    return json.dumps(
        [item.decode() if isinstance(item, bytes) else item for item in fields_of(message)],
        ensure_ascii=False,
        separators=(",", ":"),
    )


def from_fields_json(text: str | bytes) -> Message:
    """Inverse of fields_json. Raises InvalidMessage."""
    try:
        return from_fields([item.encode() for item in _decode_fields(text)])
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"not a list of message fields: {error}") from None


def from_fields(fields: Sequence[bytes]) -> Message:
    """Decode a stream entry's flat field list. Raises InvalidMessage saying what is wrong with it.

    Fields this version does not know are ignored, so that a later minor addition does not stop old workers.
    """
    return plain_message(fields) or _from_mapping(dict(zip(fields[::2], fields[1::2], strict=False)))


def plain_message(fields: Sequence[bytes]) -> Message | None:
    """The message of an entry such as ``delay()`` writes, and nearly every one is; None: it needs a closer look.

    Each step here is one of every message's: a slice or a method of C where it can be.
    """
    if len(fields) != 8 or fields[::2] != _PLAIN or fields[1] != VERSION:
        return None
    raw_id, body = fields[3], fields[7]
    # Narrower than MESSAGE_ID, true of the ids that are ours, at half of what the expression costs.
    if len(raw_id) > ID_SIZE or not raw_id.replace(b"-", b"0").isalnum():
        return None
    try:
        return Message(raw_id.decode(), fields[5].decode(), body if body.isascii() else _utf8(body))
    except UnicodeDecodeError:
        return None


def _from_mapping(found: Mapping[bytes, bytes]) -> Message:
    for required in (b"v", b"id", b"name", b"body"):
        if required not in found:
            raise InvalidMessage(f"field {required.decode()!r} is missing: not a Taskstream message")
    if found[b"v"] != VERSION:
        raise InvalidMessage(f"format version {found[b'v']!r} is not {VERSION!r}")
    try:
        message_id, name, body = _id(found[b"id"]), found[b"name"].decode(), _utf8(found[b"body"])
        headers = _headers(found[b"headers"]) if b"headers" in found else None
        attempt = int(found.get(b"attempt", b"1"))
        deliveries = int(found.get(b"deliveries", b"0"))
        sent_ms = int(found[b"sent"]) if b"sent" in found else None
        priority = int(found.get(b"priority", PRIORITY))
        expires = found.get(b"expires")
        expires_ms = None if expires is None else int(expires)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InvalidMessage(f"a field cannot be decoded: {error}") from None
    if not (1 <= attempt < 2**31 and 0 <= deliveries < 2**31 and (sent_ms is None or 0 <= sent_ms < 2**53)):
        raise InvalidMessage("attempt, deliveries or sent is out of range")
    if priority not in PRIORITIES or (expires_ms is not None and not 0 <= expires_ms < 2**53):
        raise InvalidMessage("priority or expires is out of range")
    relative = expires is not None and expires.startswith(b"+")
    return Message(
        message_id,
        name,
        body,
        headers,
        attempt,
        deliveries,
        sent_ms,
        priority,
        None if relative else expires_ms,
        expires_ms if relative else None,
    )


def _id(raw: bytes) -> str:
    """The id as text. With spaces it could not be announced to waiters, longer not be shared with the supervisor."""
    text = raw.decode()
    if not MESSAGE_ID.fullmatch(text):
        raise InvalidMessage(f"id {text[:200]!r} is not made of at most 128 letters, digits and . _ : -")
    return text


def _headers(raw: bytes) -> dict[str, Any]:
    """The headers; ValueError for deep ones, which might be read here and not be written further down the stack."""
    headers = _decode_headers(raw)
    if raw.count(b"{") + raw.count(b"[") > HEADERS_DEPTH:
        level: list[Any] = [headers]
        for _ in range(HEADERS_DEPTH):
            level = [
                inner
                for outer in level
                if isinstance(outer, (dict, list))
                for inner in (outer.values() if isinstance(outer, dict) else outer)
            ]
        if any(isinstance(inner, (dict, list)) for inner in level):
            raise ValueError(f"headers are nested deeper than {HEADERS_DEPTH}")
    return headers


def _utf8(body: bytes) -> bytes:
    """The body as it is. One that is no text could be neither put back nor buried: UnicodeDecodeError."""
    if not body.isascii():
        body.decode()
    return body
