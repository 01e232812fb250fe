"""Log lines: one per record whatever it holds, as text for people or as JSON for machines.

``time | level | app version event host pid | text | key=value | …``, or one JSON object with the same
fields. Built on the standard library's logging under the logger ``taskstream``, so that an application
may attach handlers of its own; records of other loggers become such lines, too. Writing a line never
raises into the caller, and nothing here decides what is worth a line.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TextIO

from taskstream._version import __version__
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
    # isprintable() is False for everything _UNSAFE has but these two, and several times as fast.
    if text.isprintable() and "|" not in text and "\\" not in text:
        return text
    return _UNSAFE.sub(_escape_one, text)


@functools.lru_cache(1024)
def _escape_key(key: str) -> str:
    return _UNSAFE_KEY.sub(_escape_one, key)


_name_of = type.__dict__["__name__"].__get__


def type_name(value: object) -> str:
    """The name of the class of ``value``, past whatever a metaclass makes of it."""
    return str(_name_of(type(value)))


def _plain(value: object) -> str:
    """``str(value)`` that cannot fail, whatever code the value brings along."""
    try:
        return str(value)
    except BaseException as error:
        return f"<{type_name(value)} that cannot be shown: {type_name(error)}>"


def _error_fields(exc: BaseException) -> dict[str, object]:
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException as error:  # an exception whose own __str__ or __cause__ misbehaves
        text = f"<traceback that cannot be shown: {type_name(error)}>"
    return {"error.type": type_name(exc), "error.message": _plain(exc), "error.traceback": text}


class Entry:
    """What one record says. It is the ``msg`` of its LogRecord, and its str is text and fields."""

    __slots__ = ("fields", "source", "text")

    def __init__(self, source: Source, text: str, fields: Mapping[str, object]) -> None:
        self.source = source
        self.text = text
        self.fields = fields

    def __str__(self) -> str:
        parts = [_plain(self.text)]
        parts += [
            f"{_escape_key(key)}={value if type(value) is str else _plain(value)}" for key, value in self.fields.items()
        ]
        line = " | ".join(parts)
        # One look at the whole instead of one at each value; nearly every line is harmless.
        if line.isprintable() and "\\" not in line and line.count("|") == len(parts) - 1:
            return line
        parts = [escape(_plain(self.text))]
        for key, value in self.fields.items():
            parts.append(f"{_escape_key(key)}={escape(value if type(value) is str else _plain(value))}")
        return " | ".join(parts)


class Source:
    """Who writes: app, version and event."""

    __slots__ = ("app", "column", "event", "version")

    def __init__(self, app: str, version: str, event: str) -> None:
        self.app = app
        self.version = version
        self.event = event
        self.column = escape(f"{app} {version} {event} {_host}")


NOBODY = Source("-", "-", "-")
"""Who writes where no handler runs."""

_STANDARD = frozenset((*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"))

Running = tuple[Source, Mapping[str, object]]
"""Who runs, and fields that say for which message or request."""


class _Runs:
    """How to find what runs where a record is made; a process that runs something says how."""

    find: Callable[[], Running | None] = staticmethod(lambda: None)


def tell_of_runs(find: Callable[[], Running | None]) -> None:
    """Have records of loggers other than FieldLogger say what ran when they were made.

    ``find()`` is asked for each, where it is made; None: nothing ran. May be called again; the last call holds.
    """
    _Runs.find = staticmethod(find)


def _entry_of(record: logging.LogRecord) -> Entry:
    """The entry of a record; also for one that other code logged, with what it gave by ``extra=``."""
    if isinstance(record.msg, Entry):
        return record.msg
    source, about = _Runs.find() or (NOBODY, {})
    fields: dict[str, object] = {
        f"extra.{name}": value for name, value in vars(record).items() if name not in _STANDARD
    }
    fields["logger"] = record.name
    fields.update(about)
    try:
        text = record.getMessage()
    except Exception as error:  # the arguments do not fit the text, or cannot be shown
        text = _plain(record.msg)
        fields["logger.problem"] = f"{type_name(error)}: {_plain(error)}"
    if record.exc_info and record.exc_info[1] is not None:
        fields.update(_error_fields(record.exc_info[1]))
    if record.stack_info:
        fields["stack"] = record.stack_info
    return Entry(source, text, fields)


class LineFormatter(logging.Formatter):
    """Makes the line of an entry, without its line end."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of ``record``."""
        return self.line(record.created, record.levelname, _entry_of(record))

    def line(self, created: float, level: str, entry: Entry) -> str:
        """The line of an entry written at ``created`` (s since the epoch)."""
        raise NotImplementedError


class TextFormatter(LineFormatter):
    """The form for people. The second's text is kept, because it stays the same for many lines."""

    def __init__(self) -> None:
        super().__init__()
        self._second = (-1, "")

    def line(self, created: float, level: str, entry: Entry) -> str:
        """``time | level | app version event host pid | text | key=value | …``."""
        second = int(created)
        known, stamp = self._second
        if second != known:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = (second, stamp)
        millis = int((created - second) * 1000)
        return f"{stamp},{millis:03d} | {level} | {entry.source.column} {os.getpid()} | {entry}"


class JsonFormatter(LineFormatter):
    """The same fields as one JSON object (ASCII, so that no character in it can be taken for a line end)."""

    def line(self, created: float, level: str, entry: Entry) -> str:
        """The object; the time with its offset (RFC 3339)."""
        source = entry.source
        found: dict[str, object] = {
            "time": datetime.fromtimestamp(created).astimezone().isoformat(timespec="milliseconds"),
            "level": level,
            "app": source.app,
            "version": source.version,
            "event": source.event,
            "host": _host,
            "pid": os.getpid(),
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

    def __init__(self, formatter: LineFormatter, stream: TextIO | None) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = formatter
        self._stream = stream
        # Reentrant, because a signal handler may log while its own thread is writing.
        self._writing = threading.RLock()

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record that passes the filters, without the lock of other handlers.

        A line is one system call, and greenlets and native threads that log would have to wait for each other.
        """
        passed: object = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record of the standard library's logging."""
        self.write(record.created, escape(record.levelname), _entry_of(record))

    def write(self, created: float, level: str, entry: Entry) -> None:
        """Format and write; any failure is dropped, because there is nowhere left to report it."""
        try:
            line = self._lines.line(created, level, entry) + "\n"
            stream = self._stream or sys.stderr
            descriptor = _descriptor(stream)
            if descriptor is not None:
                # One system call a line, whole as far as the system keeps it so; no lock, no buffer to flush.
                rest = line.encode("utf-8", "backslashreplace")
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                return
            with self._writing:
                stream.write(line)
                stream.flush()
        except Exception:
            return


def _descriptor(stream: TextIO) -> int | None:
    """The file behind a stream, None for one that lives in memory."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both of the latter
        return None


_root = logging.getLogger(ROOT)


def configure(level: str, fmt: str = "text", stream: TextIO | None = None) -> LineHandler:
    """Send Taskstream's lines of at least ``level`` to ``stream`` (stderr unless given); return what writes them.

    May be called again; the last call holds. Raises ConfigError for an unknown level or format.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"log level {level!r} is unknown: use one of {', '.join(LEVELS)}")
    if fmt not in FORMATS:
        raise ConfigError(f"log format {fmt!r} is unknown: use one of {', '.join(FORMATS)}")
    for handler in [found for found in _root.handlers if isinstance(found, LineHandler)]:
        _root.removeHandler(handler)
    handler = LineHandler(JsonFormatter() if fmt == "json" else TextFormatter(), stream)
    _root.addHandler(handler)
    _root.setLevel(level.upper())
    _root.propagate = False
    for name, found in _root.manager.loggerDict.items():
        # The application's dictConfig switches off every logger that it does not name, unless it says otherwise.
        if isinstance(found, logging.Logger) and f"{name}.".startswith(f"{ROOT}."):
            found.disabled = False
    return handler


def _only_handler(logger: logging.Logger) -> LineHandler | None:
    """Our own handler, if it is all that would see a record of ``logger``."""
    if len(_root.handlers) == 1 and not (_root.propagate or logger.handlers or logger.filters):
        handler = _root.handlers[0]
        if isinstance(handler, LineHandler) and not handler.filters:
            return handler
    return None


class FieldLogger:
    """Logs for one event of one app. Cheap when the level is off: nothing is built before the check."""

    __slots__ = ("_logger", "_source", "enabled")

    def __init__(self, app: str, version: str, event: str) -> None:
        self._source = Source(app, version, event)
        self._logger = logging.getLogger(f"{ROOT}.{app}")
        self.enabled = self._logger.isEnabledFor
        """``enabled(level) -> bool``: whether a line of that level would be written."""

    def log(
        self, level: int, text: str, fields: Mapping[str, object] | None = None, exc: BaseException | None = None
    ) -> None:
        """Write one line. ``fields`` have their full dotted names; ``exc`` adds ``error.*`` fields."""
        if not self.enabled(level):
            return
        shown = fields or {}
        entry = Entry(self._source, text, shown if exc is None else {**shown, **_error_fields(exc)})
        # A LogRecord costs as much as the rest of the line, so there is one only where somebody else listens.
        handler = _only_handler(self._logger)
        if handler is not None:
            handler.write(time.time(), logging.getLevelName(level), entry)
            return
        exc_info = None if exc is None else (type(exc), exc, exc.__traceback__)
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


def engine_logger(event: str) -> FieldLogger:
    """The logger of one part of Taskstream itself: app ``taskstream``, the package's version."""
    return FieldLogger(ROOT, __version__, event)
