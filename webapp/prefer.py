"""Request headers that say how a call is to be handled: ``Prefer`` (RFC 7240) and ``Idempotency-Key``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import Problem

MAX_WAIT_S = 30
"""The longest that a request may wait for a result; a longer wish is cut to it, as Preference-Applied tells."""

# A token, or a quoted string whose commas are its own.
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
_VISIBLE = re.compile(r"[!-~]([ -~]*[!-~])?")


def wait_of(environ: Mapping[str, Any]) -> int:
    """How many seconds a client wants to wait for the result; 0 for not at all.

    The first ``wait`` counts; what cannot be understood is ignored, as the RFC wants it.
    """
    value = environ.get("HTTP_PREFER")
    found = _WAIT.search(value) if value is not None else None
    return min(int(found[1]), MAX_WAIT_S) if found is not None else 0


def idempotency_key_of(environ: Mapping[str, Any]) -> str | None:
    """The key in ``Idempotency-Key``, with or without the quotes of a structured header; None without one.

    Raises Problem 400 for what is no such key.
    """
    value = environ.get("HTTP_IDEMPOTENCY_KEY")
    if value is None:
        return None
    key: str = value.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not _VISIBLE.fullmatch(key):
        reason = "is not text of visible ASCII characters"
        raise Problem(400, f"Idempotency-Key: {reason}", errors={"Idempotency-Key": [reason]})
    return key
