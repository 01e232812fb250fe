"""The schemas of the two configuration files of an event app: which keys there are and what each may hold.

Reading the files, and what is said about a mistake, is taskstream.config's business.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Self

import marshmallow as ma
from marshmallow import validate
from marshmallow.fields import Nested

from taskstream import fields, keys, logs
from taskstream.dataobjects import Anything
from taskstream.durations import parse_duration
from taskstream.errors import ConfigError

REQUEST_TYPES = ("GET", "POST")
STREAM_TYPE = "STREAM"
VERSION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class UnknownKey(str):
    """What is wrong with a key that is none; ``meant`` is the one its author probably meant."""

    meant: str | None

    def __new__(cls, text: str, meant: str | None) -> Self:
        """The text with what was meant."""
        found = super().__new__(cls, text)
        found.meant = meant
        return found


class Section(ma.Schema):
    """A part of a file. A key it does not know is an error that suggests the nearest one it does."""

    class Meta:
        """Unknown keys are judged by ``no_unknown_keys``, which knows more to say."""

        unknown = ma.EXCLUDE

    @ma.validates_schema(pass_original=True, skip_on_field_errors=False)
    def no_unknown_keys(self, data: Any, original: Any, **kwargs: Any) -> None:
        """Refuse keys that are not fields."""
        if not isinstance(original, Mapping):
            return
        errors = {}
        for key in original.keys() - self.fields.keys():
            near = difflib.get_close_matches(key, self.fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(self.fields))}"
            errors[key] = [UnknownKey(f"unknown key; {hint}", near[0] if near else None)]
        if errors:
            raise ma.ValidationError(errors)


class Name(fields.String):
    """A name by the project's one rule."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return keys.check_name("name", super()._deserialize(value, attr, data, **kwargs))
        except ConfigError as error:
            raise ma.ValidationError(str(error)) from None


class Duration(fields.Float):
    """Seconds as a number, or text such as ``12h`` or ``7d``."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return parse_duration(value)
        except ValueError as error:
            raise ma.ValidationError(f"must be {error}") from None


class LogLevel(fields.String):
    """A level by name, in either case."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        found = super()._deserialize(value, attr, data, **kwargs).upper()
        if found not in logs.LEVELS:
            raise ma.ValidationError(f"must be one of {', '.join(logs.LEVELS)}")
        return found


def _one_of(*choices: str) -> validate.OneOf:
    return validate.OneOf(choices, error="must be one of {choices}")


def _at_least(minimum: float, *, above: bool = False) -> validate.Range:
    text = f"must be {'above' if above else 'at least'} {minimum:g}"
    return validate.Range(min=minimum, min_inclusive=not above, error=text)


class StreamName(Section):
    """A stream."""

    name = Name(required=True)


class WriteStream(StreamName):
    """``write_stream``."""

    max_length = fields.Integer(validate=_at_least(1))


class ReadStream(StreamName):
    """``read_stream``."""

    consumer_group = Name(required=True)


class StreamSection(Section):
    """``config.stream`` of a STREAM event."""

    timeout = fields.Float(validate=_at_least(0, above=True))
    hard_timeout = fields.Float(validate=_at_least(0, above=True))
    batch_size = fields.Integer(validate=_at_least(1))
    max_retries = fields.Integer(validate=_at_least(0))
    max_deliveries = fields.Integer(validate=_at_least(1))
    retry_backoff = fields.Float(validate=_at_least(0))
    step_delay = fields.Float(validate=_at_least(0))
    throttle_ms = fields.Float(validate=_at_least(0))
    concurrency = fields.Integer(validate=_at_least(1))
    delay_auto_start = fields.Float(validate=_at_least(0))
    retention = Duration()

    @ma.validates_schema
    def one_after_the_other(self, data: Any, **kwargs: Any) -> None:
        """The process is killed only when the interrupt did not help."""
        if "timeout" in data and data.get("hard_timeout", math.inf) <= data["timeout"]:
            raise ma.ValidationError(f"must be above timeout, which is {data['timeout']:g}", "hard_timeout")


class EventSettings(Section):
    """``config`` of an event."""

    stream = Nested(StreamSection)


class EventSection(Section):
    """One event."""

    type = fields.String(required=True, validate=_one_of(*REQUEST_TYPES, STREAM_TYPE))
    read_stream = Nested(ReadStream)
    write_stream = Nested(WriteStream)
    config = Nested(EventSettings)

    @ma.validates_schema
    def fits_its_type(self, data: Any, **kwargs: Any) -> None:
        """Only STREAM events read a stream, and they must."""
        if data["type"] == STREAM_TYPE:
            if "read_stream" not in data:
                raise ma.ValidationError(
                    "a STREAM event needs it: the stream's name and a consumer_group", "read_stream"
                )
        else:
            for key in {"read_stream", "config"} & data.keys():
                raise ma.ValidationError(f"only STREAM events have it, this one is {data['type']}", key)


class AppNameSection(Section):
    """``app``."""

    name = Name(required=True)
    version = fields.String(
        required=True,
        validate=validate.Regexp(VERSION_PATTERN.pattern + r"\Z", error='must be a version such as "1.0"'),
    )


class AppFile(Section):
    """config.json."""

    app = Nested(AppNameSection, required=True)
    env = fields.Table(fields.String(), Anything())
    events = fields.Table(Name(), Nested(EventSection), required=True)  # type: ignore[arg-type]


class LoggingSection(Section):
    """``logging``."""

    log_level = LogLevel()
    log_format = fields.String(validate=_one_of(*logs.FORMATS))


class StreamsSection(Section):
    """``streams``."""

    connection_str = fields.String()
    dead_retention = Duration()


class ApiSection(Section):
    """``api``."""

    docs_path = fields.String(
        allow_none=True, validate=validate.Regexp(r"/[A-Za-z0-9._/-]*\Z", error='must be a path such as "/api/docs"')
    )
    max_body_bytes = fields.Integer(validate=_at_least(1))


class ResultsSection(Section):
    """``results``."""

    url = fields.String(allow_none=True)
    retention = Duration()
    fsync = fields.String(validate=_one_of("commit", "checkpoint"))


class ServerFile(Section):
    """server.json."""

    logging = Nested(LoggingSection)
    streams = Nested(StreamsSection)
    api = Nested(ApiSection)
    results = Nested(ResultsSection, allow_none=True)
