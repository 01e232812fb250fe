"""How ``taskstream dead`` shows a dead letter: in a row of a table, as lines, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskstream.cli.output import age, shown
from taskstream.durations import moment
from taskstream.errors import InvalidMessage
from taskstream.message import OWN_HEADERS, encode_json

if TYPE_CHECKING:
    from taskstream.broker.letters import DeadLetter

COLUMNS = ["ID", "TASK", ">DEAD FOR", ">ATTEMPTS", ">DELIVERIES", "ERROR"]
ERROR_WIDTH = 80


def row(letter: DeadLetter, now_ms: int) -> list[object]:
    """The cells of COLUMNS; ``now_ms`` by Redis' clock."""
    error = f"{letter.error.type}: {letter.error.message}".removesuffix(": ")
    if len(error) > ERROR_WIDTH:
        error = f"{error[: ERROR_WIDTH - 1]}…"
    dead_for = age(max(0, now_ms - letter.died_ms) / 1000)
    return [letter.id, letter.handler or letter.name, dead_for, letter.attempts, letter.deliveries, error]


def brief(letter: DeadLetter) -> dict[str, Any]:
    """What ``list --json`` says of a letter. Times in ms since the epoch; ``requeued`` counts earlier deaths."""
    return {
        "id": letter.id,
        "name": letter.name,
        "handler": letter.handler,
        "died_ms": letter.died_ms,
        "sent_ms": letter.sent_ms,
        "attempts": letter.attempts,
        "deliveries": letter.deliveries,
        "deaths": letter.deaths,
        "worker": letter.worker,
        "error": {"type": letter.error.type, "message": letter.error.message},
        "requeued": len(letter.history()),
    }


def complete(letter: DeadLetter) -> dict[str, Any]:
    """What ``show --json`` says: also traceback, earlier deaths, headers, and the body as it is on the wire.

    Of what is no message, the ``fields`` of its entry.
    """
    found = brief(letter)
    found["error"]["traceback"] = letter.error.traceback
    try:
        message = letter.message()
    except InvalidMessage:
        found["fields"] = [field.decode(errors="backslashreplace") for field in letter.fields]
        return found
    found["history"] = letter.history()
    found["headers"] = _headers(message.headers)
    found["body"] = message.body.decode()
    return found


def text_of(letter: DeadLetter) -> str:
    """One block of lines."""
    died_before = "process" if letter.deaths == 1 else "processes"
    rows: list[tuple[str, object]] = [
        ("id", letter.id),
        ("handler", letter.handler),
        ("name", letter.name),
        ("error", f"{letter.error.type}: {letter.error.message}".removesuffix(": ")),
        *(("", line) for line in letter.error.traceback.splitlines()),
        ("attempts", letter.attempts),
        ("deliveries", letter.deliveries),
        ("deaths", f"{letter.deaths} worker {died_before} died under it" if letter.deaths else None),
        ("sent", moment(letter.sent_ms)),
        ("died", moment(letter.died_ms)),
        ("worker", letter.worker or None),
    ]
    try:
        message = letter.message()
    except InvalidMessage:
        pairs = [field.decode(errors="backslashreplace") for field in letter.fields]
        rows += (("field", text) for text in pairs)
    else:
        headers = _headers(message.headers)
        rows += [("headers", encode_json(headers).decode() if headers else None), ("body", message.body.decode())]
    for past in letter.history():
        what = f"{past.type}: {past.message}".removesuffix(": ")
        rows.append(("before", f"{moment(past.at)} {what} (attempts {past.attempts}, deliveries {past.deliveries})"))
    return "".join(f"{name:<12}{shown(value)}".rstrip() + "\n" for name, value in rows if value is not None)


def _headers(headers: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (headers or {}).items() if not name.startswith(OWN_HEADERS)}
