"""From type annotations to fields: which types a payload may have, and the fields each is made of.

Raises ConfigError, with class and field, for a type that has no place in JSON. Which field holds an object
is passed in, because objects are made of these fields themselves.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from taskstream import fields, scalars
from taskstream.errors import ConfigError
from taskstream.scalars import Convert, Mismatch

ObjectField = Callable[[type[Any] | None, Mapping[str, Any]], fields.Strict]
"""Makes the field of a dataclass, or of anything (None)."""

_SCALARS: dict[Any, type[fields.Scalar]] = {
    str: fields.String,
    int: fields.Integer,
    float: fields.Float,
    bool: fields.Boolean,
    dt.datetime: fields.DateTime,
    dt.date: fields.Date,
    uuid.UUID: fields.UUID,
    Decimal: fields.DecimalText,
    None: fields.Null,
    type(None): fields.Null,
}
_ARRAYS: dict[Any, tuple[Convert, tuple[type[collections.abc.Collection[Any]], ...]]] = {
    list: (list, (list, tuple)),
    collections.abc.Sequence: (list, (list, tuple)),
    collections.abc.Iterable: (list, (list, tuple)),
    collections.abc.Collection: (list, (list, tuple)),
    tuple: (tuple, (tuple,)),
    set: (set, (set, frozenset)),
    frozenset: (frozenset, (set, frozenset)),
}
_TABLES = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_KEYS = (fields.String, fields.DateTime, fields.Date, fields.UUID, fields.DecimalText)


def name_of(annotation: Any) -> str:
    """How a type is called in an error text."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def fields_of(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Name → (annotation, required) of what a dataclass is constructed from.

    Raises ConfigError for an annotation that cannot be resolved.
    """
    owner = f"{kind.__module__}.{kind.__qualname__}"
    declared = [field for field in dataclasses.fields(kind) if field.init]
    names = {field.name for field in declared}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in names and parameter.default is parameter.empty:
            raise ConfigError(f"{owner}.{name}: is needed to construct the class but is no field of it")
    try:
        hints = typing.get_type_hints(kind)
    except Exception as error:  # whatever evaluating somebody's annotation raises
        missing = error.name if isinstance(error, NameError) else None
        culprit = next((f".{field.name}" for field in declared if missing and missing in str(field.type)), "")
        raise ConfigError(f"{owner}{culprit}: its annotation cannot be resolved: {error}") from None
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in declared
    }


def build(annotation: Any, owner: str, kwargs: Mapping[str, Any], object_field: ObjectField) -> fields.Strict:
    """The field of ``annotation``; ``kwargs`` go to it. Raises ConfigError."""

    def inner(found: Any) -> fields.Strict:
        return build(found, owner, {}, object_field)

    def unsupported(why: str = "") -> ConfigError:
        where = f"{owner}: " if owner else ""
        return ConfigError(
            f"{where}type {name_of(annotation)} is not supported{why}; use str, int, float, bool, datetime, date, "
            "UUID, Decimal, an Enum, a dataobject, Optional, Union, list, tuple, set, dict or Any"
        )

    while (alias := _alias(annotation)) is not None:
        annotation = alias
    if not isinstance(annotation, collections.abc.Hashable):
        raise unsupported()
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return build(args[0], owner, kwargs, object_field)
    if annotation in (Any, object):
        return object_field(None, kwargs)
    if origin is None and (annotation in _ARRAYS or annotation in _TABLES):
        origin = annotation
    if origin is typing.Union or origin is types.UnionType:
        return _union(args, kwargs, inner)
    if origin is typing.Literal:
        if not all(isinstance(choice, str | int | bool | None) for choice in args):
            raise unsupported(" (only text, numbers and null may be literals)")
        return fields.Choice([choice for choice in args if choice is not None], **_nullable(kwargs, None in args))
    if origin is tuple and args and args[-1] is not ...:
        return fields.Row([inner(part) for part in args], **kwargs)
    if origin in _ARRAYS:
        make, native = _ARRAYS[origin]
        return fields.Items(inner(args[0] if args else Any), make, native, **kwargs)
    if origin in _TABLES:
        key, value = args or (str, Any)
        return fields.Table(_key(key, inner, unsupported), inner(value), **kwargs)
    if annotation in _SCALARS:
        return _SCALARS[annotation](**kwargs)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _enum(annotation, kwargs, unsupported)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return object_field(annotation, kwargs)
    raise unsupported()


def _alias(annotation: Any) -> Any:
    """What a NewType or (from Python 3.12 on) a ``type`` statement stands for, None for anything else."""
    if isinstance(annotation, type):
        return None
    return getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)


def _nullable(kwargs: Mapping[str, Any], nullable: bool) -> dict[str, Any]:
    return {**kwargs, "allow_none": True} if nullable else dict(kwargs)


def _union(args: tuple[Any, ...], kwargs: Mapping[str, Any], inner: Callable[[Any], fields.Strict]) -> fields.Strict:
    members = [arg for arg in args if arg is not type(None)]
    # A float accepts 1 as well, and would turn every int into a float if it were asked first.
    members.sort(key=lambda arg: arg is float and int in members)
    options = _nullable(kwargs, len(members) < len(args))
    if len(members) == 1:
        made = inner(members[0])
        made.allow_none = made.allow_none or options.get("allow_none", False)
        made.required = options.get("required", False)
        return made
    return fields.Either([inner(member) for member in members], **options)


def _enum(kind: type[enum.Enum], kwargs: Mapping[str, Any], unsupported: Callable[[str], ConfigError]) -> fields.Strict:
    kinds = {type(member.value) for member in kind}
    if not kinds or not kinds <= {str, int, float, bool}:
        raise unsupported(" (the values of an Enum must be text, numbers or booleans)")
    by_value = _SCALARS[kinds.pop()]() if len(kinds) == 1 else fields.Choice([member.value for member in kind])
    return fields.EnumValue(kind, by_value, **kwargs)


def _key(
    annotation: Any, inner: Callable[[Any], fields.Strict], unsupported: Callable[[str], ConfigError]
) -> fields.Strict:
    if annotation in (Any, object):
        return fields.String()
    found = inner(annotation)
    if isinstance(found, fields.Integer):
        return fields.IntegerKey()
    texts = isinstance(found, fields.EnumValue) and all(isinstance(member.value, str) for member in found.enum)
    if found.allow_none or not (texts or isinstance(found, _KEYS)):
        raise unsupported(" (keys of a dict are text)")
    return found


def read_plain(value: Any) -> Any:
    """``value`` itself if it is what a JSON parser returns. Raises Mismatch."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return scalars.read_str(value)
    if kind is int:
        return scalars.read_int(value)
    if kind is float:
        return scalars.read_float(value)
    if kind is list:
        return [read_plain(item) for item in value]
    if kind is dict:
        return {scalars.read_str(key): read_plain(item) for key, item in value.items()}
    raise Mismatch


_WRITERS: tuple[tuple[type[Any], Convert], ...] = (
    (str, scalars.write_str),
    (int, scalars.write_int),
    (float, scalars.write_float),
    (dt.datetime, scalars.write_datetime),
    (dt.date, scalars.write_date),
    (uuid.UUID, scalars.write_uuid),
    (Decimal, scalars.write_decimal),
)


def write_plain(value: Any, write_object: Convert) -> Any:
    """The plain form of ``value`` by its own type; dataclasses go to ``write_object``. Raises Mismatch."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, enum.Enum):
        return write_plain(value.value, write_object)
    if isinstance(value, Mapping):
        return {_plain_key(key): write_plain(item, write_object) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [write_plain(item, write_object) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return write_object(value)
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    raise Mismatch


def _plain_key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, int):
        return scalars.write_int_key(key)
    return str(write_plain(key, _no_object)) if isinstance(key, str | dt.date | uuid.UUID) else _no_object(key)


def _no_object(value: Any) -> Any:
    raise Mismatch
