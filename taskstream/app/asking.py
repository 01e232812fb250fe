"""What a run says of itself, checked: that it wants another try, and how far it has got. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from taskstream.durations import LONGEST_S
from taskstream.errors import Retry, ValidationError
from taskstream.message import encode_json


def retry_of(where: str, exc: object, countdown: object, eta: object, max_retries: object) -> Retry:
    """What ``Task.retry`` raises. Raises ValidationError naming the argument that cannot be."""

    def check(name: str, value: object, fits: bool, wanted: str) -> None:
        if not fits:
            text = f"{value!r:.200} cannot be used: give {wanted}"
            raise ValidationError(f"{where}: {name}: {text}", {name: [text]})

    check("exc", exc, exc is None or isinstance(exc, BaseException), "an exception")
    number = isinstance(countdown, (int, float)) and not isinstance(countdown, bool)
    fits = countdown is None or (number and 0 <= cast(float, countdown) <= LONGEST_S)
    check("countdown", countdown, fits, "seconds from 0 on, at most 100 years")
    aware = isinstance(eta, datetime) and eta.utcoffset() is not None
    check("eta", eta, eta is None or aware, "a datetime with a time zone, as in datetime.now(UTC)")
    check("eta", eta, eta is None or countdown is None, "either countdown or eta")
    whole = type(max_retries) is int and max_retries >= 0
    check("max_retries", max_retries, max_retries is None or whole, "a whole number from 0 on")
    return Retry(
        cause=cast(BaseException | None, exc),
        delay=cast(float | None, countdown),
        due_ms=None if eta is None else max(0, int(cast(datetime, eta).timestamp() * 1000)),
        max_retries=cast(int | None, max_retries),
    )


def progress_of(where: str, done: object, total: object, info: dict[str, Any]) -> dict[str, Any]:
    """What ``info`` of a result is to say. Raises ValidationError naming what is no number, or no JSON."""
    numbers = {"done": done} if total is None else {"done": done, "total": total}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            text = f"{value!r:.200} is no number"
            raise ValidationError(f"{where}: {name}: {text}", {name: [text]})
    found = {**numbers, **info}
    try:
        encode_json(found)
    except ValidationError as error:
        raise ValidationError(f"{where}: {error}") from None
    return found
