"""The marshmallow fields that payloads, arguments and settings are made of; strict as ``taskstream.scalars``.

Every field also offers ``reader()`` and ``writer()``: plain functions for the hot path that accept exactly
what the field accepts but raise a bare Mismatch instead of collecting errors, about ten times as fast.
Where one says Mismatch, marshmallow is asked, which then says what is wrong and where.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import marshmallow as ma
from marshmallow import fields

from taskstream import scalars
from taskstream.scalars import Convert, Mismatch


class Strict(fields.Field[Any]):
    """What every field here has: the functions of the fast path, with None where it is allowed."""

    unfit = "Not a valid value."
    """What is wrong with a value that does not fit."""
    give = ""
    """What Python has to give, where that is another thing than what JSON has."""

    def misfit(self) -> ma.ValidationError:
        """The error for a plain value that does not fit."""
        return ma.ValidationError(self.unfit)

    def misgiven(self) -> ma.ValidationError:
        """The error for a value of Python that does not fit."""
        return ma.ValidationError(f"Give {self.give}." if self.give else self.unfit)

    def _reader(self) -> Convert:
        raise NotImplementedError

    def _writer(self) -> Convert:
        raise NotImplementedError

    def reader(self) -> Convert:
        """Plain value → value of the declared type; raises Mismatch."""
        return _or_none(self._reader()) if self.allow_none else self._reader()

    def writer(self) -> Convert:
        """Value of the declared type → plain value; raises Mismatch."""
        return _or_none(self._writer()) if self.allow_none else self._writer()

    def _null(self, value: Any) -> bool:
        """Whether ``value`` is an allowed None; raises for one that is not (marshmallow dumps any None)."""
        if value is None and not self.allow_none:
            raise self.make_error("null")
        return value is None


def _or_none(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


class Scalar(Strict):
    """A field of two functions, which serve marshmallow and the fast path alike."""

    read: Convert
    write: Convert

    def _reader(self) -> Convert:
        return self.read

    def _writer(self) -> Convert:
        return self.write

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return self.read(value)
        except Mismatch:
            raise self.misfit() from None

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if self._null(value):
            return None
        try:
            return self.write(value)
        except Mismatch:
            raise self.misgiven() from None


class String(Scalar, fields.String):
    """str."""

    read, write = staticmethod(scalars.read_str), staticmethod(scalars.write_str)
    unfit = "Not a valid string."


class Integer(Scalar, fields.Integer):
    """int."""

    read, write = staticmethod(scalars.read_int), staticmethod(scalars.write_int)
    unfit = "Not a valid integer of at most 64 bits."


class Float(Scalar, fields.Float):
    """float."""

    read, write = staticmethod(scalars.read_float), staticmethod(scalars.write_float)
    unfit = "Not a valid finite number."


class Boolean(Scalar, fields.Boolean):
    """bool."""

    read, write = staticmethod(scalars.read_bool), staticmethod(scalars.read_bool)
    unfit = "Not a valid boolean."


class DateTime(Scalar, fields.DateTime):
    """datetime."""

    read, write = staticmethod(scalars.read_datetime), staticmethod(scalars.write_datetime)
    unfit = "Not a valid datetime of RFC 3339."
    give = "a datetime.datetime"


class Date(Scalar, fields.Date):
    """date."""

    read, write = staticmethod(scalars.read_date), staticmethod(scalars.write_date)
    unfit = "Not a valid date (YYYY-MM-DD)."
    give = "a datetime.date"


class UUID(Scalar, fields.UUID):
    """UUID."""

    read, write = staticmethod(scalars.read_uuid), staticmethod(scalars.write_uuid)
    unfit = "Not a valid UUID."
    give = "a uuid.UUID"


class DecimalText(Scalar, fields.String):
    """Decimal, as text."""

    read, write = staticmethod(scalars.read_decimal), staticmethod(scalars.write_decimal)
    unfit = 'Not a valid decimal; write it as a string, such as "9.99".'
    give = "a finite Decimal"


class IntegerKey(Scalar, fields.String):
    """int as the key of an object."""

    read, write = staticmethod(scalars.read_int_key), staticmethod(scalars.write_int_key)
    unfit = "Not a valid integer as a key."


class Null(Scalar, fields.Raw):
    """None and nothing else: the return annotation ``None``."""

    unfit = "Must be null."
    give = "None"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_none": True})

    @staticmethod
    def read(value: Any) -> Any:
        """Nothing but None passes, and that is let through before this is asked."""
        raise Mismatch

    write = read


class Choice(Scalar, fields.Raw):
    """One of some plain scalars (Literal)."""

    def __init__(self, choices: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "metadata": {**kwargs.get("metadata", {}), "enum": list(choices)}})
        # True == 1 and hash(True) == hash(1): the type is part of the key.
        self._known = {(type(choice), choice) for choice in choices}
        self.unfit = f"Must be one of: {', '.join(map(repr, choices))}."

    def read(self, value: Any) -> Any:
        """``value`` if it is one of the choices."""
        try:
            if (type(value), value) in self._known:
                return value
        except TypeError:  # not hashable
            pass
        raise Mismatch

    write = read


class EnumValue(Scalar, fields.Enum[Any]):
    """A member of an Enum, by its value."""

    def __init__(self, kind: type[enum.Enum], by_value: fields.Field[Any], **kwargs: Any) -> None:
        super().__init__(kind, by_value=by_value, **kwargs)
        self._members = {(type(member.value), member.value): member for member in kind}
        self.unfit = f"Must be one of: {self.choices_text}."
        self.give = f"a member of {kind.__name__}"

    def read(self, value: Any) -> Any:
        """The member of this value."""
        try:
            found = self._members.get((type(value), value))
        except TypeError:  # not hashable
            found = None
        if found is None:
            raise Mismatch
        return found

    def write(self, value: Any) -> Any:
        """The value of this member."""
        if not isinstance(value, self.enum) or (type(value.value), value.value) not in self._members:
            raise Mismatch
        return value.value


class Items(Strict, fields.List[Any]):
    """A list, or what ``make`` makes of one (tuple, set, frozenset); ``native`` is what may be written."""

    unfit = "Not a valid list."

    def __init__(
        self, inner: Strict, make: Convert = list, native: tuple[type[Collection[Any]], ...] = (list, tuple), **kw: Any
    ) -> None:
        super().__init__(inner, **kw)
        self.item, self.makes_list, self._make, self._native = inner, make is list, make, native
        self.give = f"a {' or '.join(kind.__name__ for kind in native)}"

    def _reader(self) -> Convert:
        read, make = self.item.reader(), self._make

        def convert(value: Any) -> Any:
            if type(value) is not list:
                raise Mismatch
            try:
                return make([read(item) for item in value])
            except TypeError:  # a set of what cannot be hashed
                raise Mismatch from None

        return convert

    def _writer(self) -> Convert:
        write, native = self.item.writer(), self._native

        def convert(value: Any) -> Any:
            if not isinstance(value, native):
                raise Mismatch
            return [write(item) for item in value]

        return convert

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if type(value) is not list:
            raise self.misfit()
        try:
            return self._make(super()._deserialize(value, attr, data, **kwargs))
        except TypeError as error:
            raise ma.ValidationError(str(error)) from None

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if self._null(value):
            return None
        if not isinstance(value, self._native):
            raise self.misgiven()
        return collect([(index, self.inner._serialize, item) for index, item in enumerate(value)])


class Row(Strict, fields.Tuple):
    """A tuple of a fixed number of items, each of its own type."""

    def __init__(self, parts: Sequence[Strict], **kwargs: Any) -> None:
        super().__init__(parts, **kwargs)
        self._parts = list(parts)
        self.unfit = f"Not a valid list of {len(parts)} items."
        self.give = f"a tuple of {len(parts)} items"

    def _reader(self) -> Convert:
        readers = [part.reader() for part in self._parts]

        def convert(value: Any) -> Any:
            if type(value) is not list or len(value) != len(readers):
                raise Mismatch
            return tuple([read(item) for read, item in zip(readers, value, strict=True)])

        return convert

    def _writer(self) -> Convert:
        writers = [part.writer() for part in self._parts]

        def convert(value: Any) -> Any:
            if not isinstance(value, tuple) or len(value) != len(writers):
                raise Mismatch
            return [write(item) for write, item in zip(writers, value, strict=True)]

        return convert

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if type(value) is not list or len(value) != len(self._parts):
            raise self.misfit()
        return super()._deserialize(value, attr, data, **kwargs)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if self._null(value):
            return None
        if not isinstance(value, tuple) or len(value) != len(self._parts):
            raise self.misgiven()
        parts = zip(self.tuple_fields, value, strict=True)
        return collect([(index, part._serialize, item) for index, (part, item) in enumerate(parts)])


class Table(Strict, fields.Dict):
    """A dict with keys of one type and values of one type."""

    unfit = "Not a valid object."
    give = "a dict"

    def __init__(self, keys: Strict, values: Strict, **kwargs: Any) -> None:
        super().__init__(keys, values, **kwargs)
        self._key, self._value = keys, values

    def _reader(self) -> Convert:
        read_key, read = self._key.reader(), self._value.reader()

        def convert(value: Any) -> Any:
            if type(value) is not dict:
                raise Mismatch
            return {read_key(key): read(item) for key, item in value.items()}

        return convert

    def _writer(self) -> Convert:
        write_key, write = self._key.writer(), self._value.writer()

        def convert(value: Any) -> Any:
            if not isinstance(value, Mapping):
                raise Mismatch
            return {write_key(key): write(item) for key, item in value.items()}

        return convert

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if type(value) is not dict:
            raise self.misfit()
        keys = collect([(key, self._key.deserialize, key) for key in value])
        return dict(zip(keys, collect([(k, self._value.deserialize, v) for k, v in value.items()]), strict=True))

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if self._null(value):
            return None
        if not isinstance(value, Mapping):
            raise self.misgiven()
        keys = collect([(repr(key), self._key._serialize, key) for key in value])
        return dict(zip(keys, collect([(k, self._value._serialize, v) for k, v in value.items()]), strict=True))


class Either(Strict, fields.Raw):
    """A Union: the first member that accepts the value."""

    unfit = "Fits none of the allowed types."

    def __init__(self, members: Sequence[Strict], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members = list(members)

    def _reader(self) -> Convert:
        return _first_that_fits([member.reader() for member in self.members])

    def _writer(self) -> Convert:
        return _first_that_fits([member.writer() for member in self.members])

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        for member in self.members:
            try:
                return member.deserialize(value, attr, data)
            except ma.ValidationError:
                continue
        raise self.misfit()

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if self._null(value):
            return None
        for member in self.members:
            try:
                return member._serialize(value, attr, obj)
            except ma.ValidationError:
                continue
        raise self.misgiven()


def _first_that_fits(converts: Sequence[Convert]) -> Convert:
    def convert(value: Any) -> Any:
        for attempt in converts:
            try:
                return attempt(value)
            except Mismatch:
                continue
        raise Mismatch

    return convert


def collect(steps: Iterable[tuple[Any, Callable[..., Any], Any]]) -> list[Any]:
    """Run ``(key, convert, value)`` steps and raise all their errors together, by key."""
    found: list[Any] = []
    errors: dict[Any, Any] = {}
    for key, convert, value in steps:
        try:
            found.append(convert(value, None, None))
        except ma.ValidationError as error:
            errors[key] = error.messages
    if errors:
        raise ma.ValidationError(errors)
    return found
