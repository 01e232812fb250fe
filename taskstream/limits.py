"""How often, and how many at once, the messages of one task may run over all workers. Pure: what Redis counts is in
taskstream/broker/limits.py."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from taskstream.errors import ValidationError
from taskstream.message import Delivery, encode_json

_TEXT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}

LONGEST_S = 366 * 86_400
"""The longest time between two runs that a rate may mean."""

EXPECTED = 'a number of runs per second above 0, or text such as "10/s", "100/m" or "5/h"'


@dataclass(frozen=True, slots=True)
class Limit:
    """``apart_us``: least time between two starts (microseconds); ``most``: slots, messages at once. None: any.

    ``key(delivery)`` says under which key a message is counted; None counts all of the task together.
    """

    apart_us: int | None = None
    most: int | None = None
    key: Callable[[Delivery], object] | None = None

    def name(self, task: str, delivery: Delivery) -> str:
        """What the limit of this message is called in the names of keys: the task, and a digest of its key.

        Raises what ``key`` raises, and ValidationError if what it returns has no form in JSON.
        """
        if self.key is None:
            return task
        key = self.key(delivery)
        try:
            text = encode_json(key)
        except ValidationError as error:
            raise ValidationError(f"{task}: limit_key returned {key!r:.200}, which is {error}") from None
        # No name of a task has a slash. A digest, because a key may be of any length and any characters.
        return f"{task}/{hashlib.sha256(text).hexdigest()[:32]}"


def parse_rate(value: object) -> int:
    """Microseconds between two runs at the rate ``value``. Raises ValueError, whose text is what was expected."""
    per_second = 0.0
    if isinstance(value, str):
        match = _TEXT.fullmatch(value.strip())
        if match:
            per_second = float(match[1]) / _SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        per_second = float(value) if abs(value) < 1e9 else math.inf
    if not 0 < per_second <= 1_000_000 or 1 / per_second > LONGEST_S:
        raise ValueError(EXPECTED)
    # Rounded up: never more than was said.
    return math.ceil(round(1_000_000 / per_second, 3))
