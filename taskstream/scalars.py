"""How each scalar type is read from plain JSON values and written as one. Pure functions, nothing else.

Stricter than JSON libraries are: a value must have its declared type (no "1" for an int, no bool for an
int), and whatever JSON cannot carry unchanged is refused both ways (NaN, integers over 64 bits, lone
surrogates). Each function raises Mismatch, without details, because it runs for every value of every
message; who wants to tell a user what is wrong does so in ``taskstream.fields``.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import msgspec

Convert = Callable[[Any], Any]
T = TypeVar("T")

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""What an integer may be: 64 bits signed, the most that readers in other languages can be trusted with."""

_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")
_INT_KEY = re.compile(r"0|-?[1-9][0-9]{0,18}")


class Mismatch(Exception):
    """A value does not fit, without details: the fast path's only failure."""


def read_str(value: Any) -> str:
    """A str without lone surrogates."""
    if type(value) is not str:
        raise Mismatch
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Mismatch from None
    found: str = value
    return found


def write_str(value: Any) -> str:
    """A str or an instance of a subclass of it, as a str."""
    return read_str(str.__str__(value) if isinstance(value, str) else value)


def read_int(value: Any) -> int:
    """An int of 64 bits that is no bool."""
    if type(value) is not int or not INT_MIN <= value <= INT_MAX:
        raise Mismatch
    return value


def write_int(value: Any) -> int:
    """An int or an instance of a subclass of it, as an int."""
    return read_int(int(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def read_float(value: Any) -> float:
    """A finite float; also an int, because JSON of other languages writes 1 for 1.0."""
    if type(value) is not float:
        if type(value) is not int:
            raise Mismatch
        try:
            value = float(value)
        except OverflowError:
            raise Mismatch from None
    if not math.isfinite(value):
        raise Mismatch
    found: float = value
    return found


def write_float(value: Any) -> float:
    """A float, an int, or an instance of a subclass of float, as a float."""
    return read_float(float(value) if isinstance(value, float) else value)


def read_bool(value: Any) -> bool:
    """True or False."""
    if value is True or value is False:
        return bool(value)
    raise Mismatch


def _from_text(value: Any, kind: type[T]) -> T:
    if type(value) is str:
        try:
            return msgspec.convert(value, kind)
        except (msgspec.ValidationError, UnicodeEncodeError):
            pass
    raise Mismatch


def read_datetime(value: Any) -> dt.datetime:
    """A datetime of RFC 3339; without an offset it is naive."""
    return _from_text(value, dt.datetime)


def write_datetime(value: Any) -> str:
    """RFC 3339 text. An offset that it cannot express (with seconds) becomes UTC."""
    if not isinstance(value, dt.datetime):
        raise Mismatch
    offset = value.utcoffset()
    if offset is not None and offset % dt.timedelta(minutes=1):
        try:
            value = value.astimezone(dt.UTC)
        except OverflowError:
            raise Mismatch from None
    text: str = value.isoformat()
    return text


def read_date(value: Any) -> dt.date:
    """A date, ``YYYY-MM-DD``."""
    return _from_text(value, dt.date)


def write_date(value: Any) -> str:
    """``YYYY-MM-DD``."""
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        raise Mismatch
    return value.isoformat()


def read_uuid(value: Any) -> uuid.UUID:
    """A UUID as text, with or without hyphens."""
    return _from_text(value, uuid.UUID)


def write_uuid(value: Any) -> str:
    """Text with hyphens."""
    if not isinstance(value, uuid.UUID):
        raise Mismatch
    return str(value)


def read_decimal(value: Any) -> Decimal:
    """A finite Decimal from text or from an int. A JSON float has lost digits already and is refused."""
    if type(value) is int:
        return Decimal(read_int(value))
    if type(value) is str and _DECIMAL.fullmatch(value):
        try:
            return Decimal(value)
        except InvalidOperation:
            pass
    raise Mismatch


def write_decimal(value: Any) -> str:
    """The decimal's own text."""
    if not isinstance(value, Decimal) or not value.is_finite():
        raise Mismatch
    text = str(value)
    if not _DECIMAL.fullmatch(text):  # an exponent of more than nine digits
        raise Mismatch
    return text


def read_int_key(value: Any) -> int:
    """An int that is the key of a JSON object, in its one canonical text."""
    if type(value) is str and _INT_KEY.fullmatch(value):
        return read_int(int(value))
    raise Mismatch


def write_int_key(value: Any) -> str:
    """The int as text."""
    return str(write_int(value))
