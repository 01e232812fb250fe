"""Dataobjects: dataclasses whose annotations are also a marshmallow schema, and values in and out of JSON.

``load`` and ``dump`` go through functions compiled once per type; where those refuse a value, its marshmallow
schema is asked what is wrong. Both accept the same values. Nothing here knows messages, events or HTTP.
"""

from __future__ import annotations

import dataclasses
import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

import marshmallow as ma
import msgspec
from marshmallow import fields as ma_fields

from taskstream import fields, hints
from taskstream.errors import ConfigError, ValidationError, one_line
from taskstream.message import encode_json
from taskstream.scalars import Convert, Mismatch
from taskstream.typed_json import Decode, decoder_for

__all__ = [
    "Validator",
    "dataobject",
    "dump",
    "dump_json",
    "field_for",
    "load",
    "load_json",
    "validator_for",
]

T = TypeVar("T")

_UNKNOWN = "__taskstream_unknown__"
_OBJECT = "__taskstream_object__"
_MOST_ERRORS = 50
"""How many errors of one object or list are listed; a hostile payload must not make a huge answer."""

_decode = msgspec.json.Decoder().decode
_lock = threading.RLock()


@overload
@typing.dataclass_transform()
def dataobject(cls: type[T], /) -> type[T]: ...
@overload
@typing.dataclass_transform()
def dataobject(*, unknown: str = ...) -> Callable[[type[T]], type[T]]: ...
def dataobject(cls: type[T] | None = None, /, *, unknown: str = "raise") -> type[T] | Callable[[type[T]], type[T]]:
    """Class decorator: make a dataclass (unless it is one already) that can be a payload.

    ``unknown="exclude"`` drops fields of the input that the class does not have; the default refuses them.
    Raises ConfigError for any other value.
    """
    if unknown not in ("raise", "exclude"):
        raise ConfigError(f'@dataobject(unknown={unknown!r}): use "raise" or "exclude"')

    def decorate(found: type[T]) -> type[T]:
        if "__dataclass_fields__" not in found.__dict__:
            found = dataclasses.dataclass(found)
        setattr(found, _UNKNOWN, unknown)
        return found

    return decorate if cls is None else decorate(cls)


class _ObjectSchema(ma.Schema):
    """Base of every dataobject's schema: loads to the object, and checks while dumping."""

    class Meta:
        """Generated classes stay out of marshmallow's registry of names."""

        register = False

    kind: type[Any]

    @ma.post_load
    def make_object(self, data: dict[str, Any], **kwargs: Any) -> Any:
        """The dataclass; what its own ``__post_init__`` refuses is an error of the whole object."""
        try:
            return self.kind(**data)
        except (TypeError, ValueError) as error:
            raise ma.ValidationError(str(error)) from None

    def dump(self, obj: Any, *, many: bool | None = None) -> dict[str, Any]:
        """The plain form, every field checked (marshmallow's own dump checks nothing)."""
        names = list(self.dump_fields)
        steps = [(name, _serialize_attribute(self.dump_fields[name], name), obj) for name in names]
        return dict(zip(names, fields.collect(steps), strict=True))


def _serialize_attribute(field: ma_fields.Field[Any], name: str) -> Callable[[Any, None, None], Any]:
    def serialize(obj: Any, _attr: None, _data: None) -> Any:
        if not hasattr(obj, name):
            raise ma.ValidationError("Missing data for required field.")
        return field._serialize(getattr(obj, name), name, obj)

    return serialize


class ObjectType:
    """What is known of one dataclass: its schema and its compiled functions, made once."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.unknown: str = getattr(kind, _UNKNOWN, "raise")
        self.read: Convert
        self.write: Convert
        self.schema: ma.Schema
        self.decode: Decode | None = None

    def build(self) -> None:
        """Make the schema and the functions; raises ConfigError naming class and field."""
        declared = hints.fields_of(self.kind)
        made: dict[str, fields.Strict] = {}
        for name, (annotation, required) in declared.items():
            owner = f"{self.kind.__module__}.{self.kind.__qualname__}.{name}"
            made[name] = field_for(annotation, owner=owner, required=required)
        base = type(f"{self.kind.__name__}Schema", (_ObjectSchema,), {**made, "__module__": self.kind.__module__})
        schema: Any = base
        schema.kind = self.kind
        self.schema = schema(unknown=ma.EXCLUDE if self.unknown == "exclude" else ma.RAISE)
        self.read = self._reader([(name, field.reader(), field.required) for name, field in made.items()])
        self.write = self._writer([(name, field.writer()) for name, field in made.items()])
        if self.unknown == "raise":  # what is dropped unread might not even be JSON
            self.decode = decoder_for(self.kind, made)

    def _reader(self, parts: Sequence[tuple[str, Convert, bool]]) -> Convert:
        kind, exclude = self.kind, self.unknown == "exclude"

        def read(value: Any) -> Any:
            if type(value) is not dict:
                raise Mismatch
            found = {}
            for name, convert, required in parts:
                if name in value:
                    found[name] = convert(value[name])
                elif required:
                    raise Mismatch
            if len(found) != len(value) and not exclude:
                raise Mismatch
            try:
                return kind(**found)
            except (TypeError, ValueError):  # its __post_init__
                raise Mismatch from None

        return read

    def _writer(self, parts: Sequence[tuple[str, Convert]]) -> Convert:
        kind = self.kind

        def write(value: Any) -> Any:
            if not isinstance(value, kind):
                raise Mismatch
            try:
                return {name: convert(getattr(value, name)) for name, convert in parts}
            except AttributeError:
                raise Mismatch from None

        return write


_building: dict[type[Any], ObjectType] = {}
"""Classes whose schemas are being made, by the one thread that holds the lock."""


def object_type(kind: type[Any]) -> ObjectType:
    """What is known of a dataclass; made at its first use, so that annotations may name later classes."""
    found: ObjectType | None = kind.__dict__.get(_OBJECT)
    if found is None:
        with _lock:
            found = kind.__dict__.get(_OBJECT) or _building.get(kind)
            if found is None:
                found = _build(kind)
    return found


def _build(kind: type[Any]) -> ObjectType:
    """Under the lock. Classes may name one another, so other threads see all of them at once, or none."""
    outermost = not _building
    found = _building[kind] = ObjectType(kind)
    try:
        found.build()
        if outermost:
            for made in _building.values():
                setattr(made.kind, _OBJECT, made)
    finally:
        if outermost:
            _building.clear()
    return found


class Object(fields.Strict, ma_fields.Nested):
    """A field that holds a dataobject or any other dataclass."""

    unfit = "Not a valid object."

    def __init__(self, known: ObjectType, **kwargs: Any) -> None:
        super().__init__(lambda: known.schema, **kwargs)
        self.known = known

    @property
    def schema(self) -> ma.Schema:
        """The one schema of the class (marshmallow would copy it for every field that names it)."""
        return self.known.schema

    # Looked up late: a class that names itself is not built yet.
    def _reader(self) -> Convert:
        return lambda value: self.known.read(value)

    def _writer(self) -> Convert:
        return lambda value: self.known.write(value)

    # Its two base classes disagree on the name of the first parameter.
    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if self._null(value):
            return None
        if not isinstance(value, self.known.kind):
            raise ma.ValidationError(f"Not a {self.known.kind.__name__} but a {type(value).__name__}.")
        return self.schema.dump(value)


class Anything(fields.Scalar, ma_fields.Raw):
    """Any value JSON can carry; when dumped also whatever has a plain form of its own."""

    unfit = "Not a value that JSON can carry."
    read = staticmethod(hints.read_plain)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_none": True})

    @staticmethod
    def write(value: Any) -> Any:
        """The plain form of ``value`` by its own type."""
        return hints.write_plain(value, lambda found: object_type(type(found)).write(found))


def field_for(annotation: Any, *, owner: str = "", **kwargs: Any) -> fields.Strict:
    """The marshmallow field of a type annotation; ``owner`` says whose it is in an error.

    ``kwargs`` go to the field (``required=``). Raises ConfigError for a type that is not supported.
    """
    return hints.build(annotation, owner, kwargs, _object_field)


def _object_field(kind: type[Any] | None, kwargs: Mapping[str, Any]) -> fields.Strict:
    return Anything(**kwargs) if kind is None else Object(object_type(kind), **kwargs)


class Validator:
    """Checks and converts values of one annotated type, in both directions."""

    __slots__ = ("_decode", "_name", "_read", "_write", "annotation", "field")

    def __init__(self, annotation: Any, name: str = "") -> None:
        """``name`` stands for the value in error texts. Raises ConfigError for an unsupported type."""
        self.annotation = annotation
        self._name = name or hints.name_of(annotation)
        self.field = field_for(annotation, owner=name)
        self._read = self.field.reader()
        self._write = self.field.writer()
        self._decode = self.field.known.decode if isinstance(self.field, Object) and not self.field.allow_none else None

    def load(self, value: object) -> Any:
        """Plain JSON value → value of the type. Raises ValidationError."""
        try:
            return self._read(value)
        except Mismatch:
            return self._slowly(lambda: self.field.deserialize(value))
        except RecursionError:
            raise self._error(["Nested too deeply."]) from None

    def load_json(self, text: bytes) -> Any:
        """JSON → value of the type. Raises ValidationError, also for what is no JSON."""
        if self._decode is not None:
            try:  # suppress() would cost as much as the decoding
                return self._decode(text)
            except Mismatch:
                pass
        if not text:
            raise self._error(["Not valid JSON: it is empty."])
        try:
            value = _decode(text)
        except RecursionError:
            raise self._error(["Nested too deeply."]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error([f"Not valid JSON: {error}."]) from None
        return self.load(value)

    def dump(self, value: object) -> Any:
        """Value of the type → plain value. Raises ValidationError where it is not of the type."""
        try:
            return self._write(value)
        except Mismatch:
            return self._slowly(lambda: self.field._serialize(value, None, None))
        except RecursionError:
            raise self._error(["Nested too deeply."]) from None

    def dump_json(self, value: object) -> bytes:
        """Value of the type → JSON. Raises ValidationError."""
        return encode_json(self.dump(value))

    def _slowly(self, convert: Callable[[], Any]) -> Any:
        try:
            return convert()
        except ma.ValidationError as error:
            raise self._error(error.messages) from None
        except RecursionError:
            raise self._error(["Nested too deeply."]) from None

    def _error(self, messages: Any) -> ValidationError:
        errors = _tidy(messages)
        found = errors if isinstance(errors, dict) else {"_schema": errors}
        whole = found["_schema"] if list(found) == ["_schema"] else found
        return ValidationError(f"{self._name}: {one_line(whole)}", found)


def _tidy(messages: Any) -> Any:
    """Errors with text keys, and no more of them than a person reads."""
    if isinstance(messages, Mapping):
        shown = {str(key)[:200]: _tidy(value) for key, value in list(messages.items())[:_MOST_ERRORS]}
        if len(messages) > _MOST_ERRORS:
            shown["..."] = [f"and {len(messages) - _MOST_ERRORS} more"]
        return shown
    if isinstance(messages, list):
        return [_tidy(item) for item in messages[:_MOST_ERRORS]]
    return messages


_validators: dict[tuple[str, Any], Validator] = {}


def validator_for(datatype: Any) -> Validator:
    """The validator of a type, made once. Raises ConfigError for an unsupported type."""
    if isinstance(datatype, type):
        key: tuple[str, Any] = ("", datatype)
    else:
        # Union[int, float] equals Union[float, int], but the order decides how a value is read.
        key = (repr(datatype), datatype)
    found = _validators.get(key)
    if found is None:
        found = _validators[key] = Validator(datatype)
    return found


def load(datatype: type[T] | Any, value: object) -> Any:
    """Plain JSON value → ``datatype``. Raises ValidationError with errors by field."""
    return validator_for(datatype).load(value)


def load_json(datatype: type[T] | Any, text: bytes) -> Any:
    """JSON → ``datatype``. Raises ValidationError with errors by field, also for what is no JSON."""
    return validator_for(datatype).load_json(text)


def dump(value: object) -> Any:
    """The plain form of a value by its own type. Raises ValidationError."""
    return validator_for(type(value) if dataclasses.is_dataclass(value) else Any).dump(value)


def dump_json(value: object) -> bytes:
    """JSON of a value by its own type. Raises ValidationError."""
    return encode_json(dump(value))
