"""Log lines: one per record whatever it holds, as text for people or as JSON for machines.

``time | level | app version event host pid | text | key=value | …``, or one JSON object with the same
fields. Built on the standard library's logging under the logger ``taskstream``, so that an application
may attach handlers of its own. Writing a line never raises into the caller, and nothing here decides
what is worth a line.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from importlib import metadata
from typing import TextIO

from taskstream.errors import ConfigError

ROOT = "taskstream"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS = ("text", "json")

# Whatever could end the line, fake a column, reorder what a terminal shows, or fail on encoding: control
# characters, the Unicode line ends, bidirectional marks, lone surrogates, and the escape and column signs.
_UNSAFE = re.compile("[\x00-\x1f\\\\|\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNSAFE_KEY = re.compile(f"{_UNSAFE.pattern[:-1]}= ]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "|": "\\|", "=": "\\="}

_encode_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_host = socket.gethostname()


def _escape_one(match: re.Match[str]) -> str:
    char = match.group()
    short = _SHORT.get(char)
    if short is not None:
        return short
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape(text: str) -> str:
    """``text`` so that it is one line and cannot end its column; ``\\n``, ``\\|``, ``\\\\``, ``\\u2028`` …"""
    return _UNSAFE.sub(_escape_one, text)


def _plain(value: object) -> str:
    """``str(value)`` that cannot fail."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _error_fields(exc: BaseException) -> dict[str, object]:
    try:
        text = "".join(traceback.format_exception(exc))
    except Exception as error:  # an exception whose own __str__ or __cause__ misbehaves
        text = f"<traceback that cannot be shown: {type(error).__name__}>"
    return {"error.type": type(exc).__name__, "error.message": _plain(exc), "error.traceback": text}


class Entry:
    """What one record says. It is the ``msg`` of its LogRecord, and its str is text and fields."""

    __slots__ = ("app", "event", "fields", "text", "version")

    def __init__(self, app: str, version: str, event: str, text: str, fields: Mapping[str, object]) -> None:
        self.app = app
        self.version = version
        self.event = event
        self.text = text
        self.fields = fields

    def __str__(self) -> str:
        parts = [escape(_plain(self.text))]
        for key, value in self.fields.items():
            parts.append(f"{_UNSAFE_KEY.sub(_escape_one, key)}={escape(_plain(value))}")
        return " | ".join(parts)


def _entry_of(record: logging.LogRecord) -> Entry:
    """The entry of a record; also for one that other code logged under ``taskstream``."""
    if isinstance(record.msg, Entry):
        return record.msg
    fields = _error_fields(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
    return Entry(ROOT, _version(), record.name, record.getMessage(), fields)


class TextFormatter(logging.Formatter):
    """SPEC's text form. The second's text is kept, because it stays the same for many lines."""

    def __init__(self) -> None:
        super().__init__()
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line of ``record`` without its line end."""
        entry = _entry_of(record)
        second = int(record.created)
        known, stamp = self._second
        if second != known:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = (second, stamp)
        source = escape(f"{entry.app} {entry.version} {entry.event} {_host} {record.process}")
        return f"{stamp},{int(record.msecs):03d} | {record.levelname} | {source} | {entry}"


class JsonFormatter(logging.Formatter):
    """The same fields as one JSON object (ASCII, so that no character in it can be taken for a line end)."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of ``record`` without its line end."""
        entry = _entry_of(record)
        local = time.localtime(record.created)
        found: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{int(record.msecs):03d}{time.strftime('%z', local)}",
            "level": record.levelname,
            "app": entry.app,
            "version": entry.version,
            "event": entry.event,
            "host": _host,
            "pid": record.process,
            "text": _json_value(entry.text),
        }
        for key, value in entry.fields.items():
            found.setdefault(_SURROGATE.sub(_escape_one, key), _json_value(value))
        return _encode_json(found)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and value - value == 0.0:  # neither NaN nor infinite, which JSON lacks
        return value
    return _SURROGATE.sub(_escape_one, _plain(value))


class LineHandler(logging.Handler):
    """Writes each record with one write. A broken or full stream costs the line, never the caller."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Format and write ``record``; any failure is dropped, because there is nowhere left to report it."""
        try:
            stream = self._stream or sys.stderr
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:
            return


def configure(level: str, fmt: str = "text", stream: TextIO | None = None) -> None:
    """Send Taskstream's lines of at least ``level`` to ``stream`` (stderr unless given).

    May be called again; the last call holds. Raises ConfigError for an unknown level or format.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"log level {level!r} is unknown: use one of {', '.join(LEVELS)}")
    if fmt not in FORMATS:
        raise ConfigError(f"log format {fmt!r} is unknown: use one of {', '.join(FORMATS)}")
    root = logging.getLogger(ROOT)
    for handler in [found for found in root.handlers if isinstance(found, LineHandler)]:
        root.removeHandler(handler)
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter() if fmt == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False


class FieldLogger:
    """Logs for one event of one app. Cheap when the level is off: nothing is built before the check."""

    __slots__ = ("_app", "_event", "_logger", "_version", "enabled")

    def __init__(self, app: str, version: str, event: str) -> None:
        self._app = app
        self._version = version
        self._event = event
        self._logger = logging.getLogger(f"{ROOT}.{app}")
        self.enabled = self._logger.isEnabledFor
        """``enabled(level) -> bool``: whether a line of that level would be written."""

    def log(
        self, level: int, text: str, fields: Mapping[str, object] | None = None, exc: BaseException | None = None
    ) -> None:
        """Write one line. ``fields`` have their full dotted names; ``exc`` adds ``error.*`` fields."""
        if not self.enabled(level):
            return
        if exc is None:
            shown: Mapping[str, object] = fields or {}
            exc_info = None
        else:
            shown = {**(fields or {}), **_error_fields(exc)}
            exc_info = (type(exc), exc, exc.__traceback__)
        entry = Entry(self._app, self._version, self._event, text, shown)
        # Not Logger.log(): finding the caller's file and line costs more than the rest of the line.
        self._logger.handle(logging.LogRecord(self._logger.name, level, "", 0, entry, (), exc_info))

    def debug(self, text: str, fields: Mapping[str, object] | None = None, exc: BaseException | None = None) -> None:
        """``log`` at DEBUG."""
        self.log(logging.DEBUG, text, fields, exc)

    def info(self, text: str, fields: Mapping[str, object] | None = None, exc: BaseException | None = None) -> None:
        """``log`` at INFO."""
        self.log(logging.INFO, text, fields, exc)

    def warning(self, text: str, fields: Mapping[str, object] | None = None, exc: BaseException | None = None) -> None:
        """``log`` at WARNING."""
        self.log(logging.WARNING, text, fields, exc)

    def error(self, text: str, fields: Mapping[str, object] | None = None, exc: BaseException | None = None) -> None:
        """``log`` at ERROR."""
        self.log(logging.ERROR, text, fields, exc)


def _version() -> str:
    try:
        return metadata.version(ROOT)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def engine_logger(event: str) -> FieldLogger:
    """The logger of one part of Taskstream itself: app ``taskstream``, the package's version."""
    return FieldLogger(ROOT, _version(), event)
