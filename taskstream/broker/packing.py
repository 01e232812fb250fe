"""XADD of a message in the bytes that go over the socket, made in one go. Sends nothing.

The same bytes as the client library packs from the list of fields, at a tenth of its cost: what entries of one task
have in common is packed once, and only id and body are put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from taskstream.message import VERSION, Message, extra_fields_of


@lru_cache(maxsize=1024)
def _frame(stream: str, name: str) -> tuple[bytes, bytes]:
    """What comes between the number of arguments and the id, and between that and the body."""
    return _arguments(["XADD", stream, "*", "v", VERSION, "id"]), _arguments(["name", name, "body"])


def pack_xadd(stream: str, message: Message) -> bytes:
    """``XADD stream * …`` with the fields of ``message``."""
    before, between = _frame(stream, message.name)
    message_id, body = message.id.encode(), message.body
    packed = b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (before, len(message_id), message_id, between, len(body), body)
    extra = extra_fields_of(message)
    if extra:
        return b"*%d\r\n%b%b" % (11 + len(extra), packed, _arguments(extra))
    return b"*11\r\n" + packed


def _arguments(values: Sequence[str | bytes]) -> bytes:
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join([b"$%d\r\n%b\r\n" % (len(one), one) for one in raw])
