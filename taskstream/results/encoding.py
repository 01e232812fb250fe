"""Outcomes as JSON, for the stores that keep them as text, and large ones compressed. Knows no files and no Redis."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeVar

import msgspec

from taskstream.results.base import Failure, Outcome

T = TypeVar("T")

COMPRESS_BYTES = 8 * 1024
"""Records from this size on are compressed. Smaller ones would gain a page of the database at most."""

_LEVEL = 1  # of JSON, twice as fast as the default level for a tenth more bytes

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Outcome).decode


def to_json(outcome: Outcome) -> bytes:
    """The outcome as one JSON object on one line; its ``value`` stands in it as the JSON it is."""
    return encoded(_encode, outcome)


def to_pretty_json(outcome: Outcome) -> bytes:
    """The same for people: indented, ending with a line end."""
    return msgspec.json.format(to_json(outcome), indent=2) + b"\n"


def from_json(text: bytes) -> Outcome:
    """Inverse of both. Raises msgspec.DecodeError for anything else."""
    outcome = _decode(text)
    value = bytes(outcome.value)
    if b"\n" in value:  # JSON strings hold no raw line ends, so this one is indentation
        outcome = msgspec.structs.replace(outcome, value=msgspec.Raw(msgspec.json.format(value, indent=-1)))
    return outcome


def pack(record: bytes) -> bytes | None:
    """A large record as a zlib stream (RFC 1950), which never begins like JSON; None for one that stays as it is."""
    return zlib.compress(record, _LEVEL) if len(record) >= COMPRESS_BYTES else None


def unpack(packed: bytes) -> bytes:
    """Inverse of ``pack``. Raises msgspec.DecodeError for what is no whole zlib stream."""
    try:
        return zlib.decompress(packed)
    except zlib.error as error:
        raise msgspec.DecodeError(f"damaged record: {error}") from None


def encoded(encode: Callable[[Outcome], T], outcome: Outcome) -> T:
    """``encode(outcome)``; text that UTF-8 cannot carry is escaped instead of losing the outcome.

    File names and foreign exceptions bring lone surrogates into error texts (PEP 383).
    """
    try:
        return encode(outcome)
    except UnicodeEncodeError:
        return encode(_escaped(outcome))


def _escaped(outcome: Outcome) -> Outcome:
    """A copy whose texts all encode: lone surrogates as ``\\udcxx``, the way Python prints them."""
    changes: dict[str, object] = {
        name: _escape(text) for name in outcome.__struct_fields__ if isinstance(text := getattr(outcome, name), str)
    }
    if outcome.error is not None:
        error = outcome.error
        changes["error"] = Failure(_escape(error.type), _escape(error.message), _escape(error.traceback))
    return msgspec.structs.replace(outcome, **changes)


def _escape(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
