"""A function's arguments and return value as JSON: checked before a call is sent, decoded where it runs.

Types other than plain scalars are marshmallow's business (``taskstream.dataobjects.Validator``). Plain scalars of
exactly the annotated type, nearly all there is, are told by a look at their type and accepted or refused alike; a
process that meets no others does not load marshmallow, whose import is a third of a small producer's start.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from taskstream.errors import ConfigError, InvalidMessage, ValidationError, one_line
from taskstream.message import encode_json
from taskstream.scalars import INT_MAX, INT_MIN

if TYPE_CHECKING:
    from taskstream.dataobjects import Validator
    from taskstream.fields import Strict

NONE = type(None)
SCALARS: frozenset[type] = frozenset({str, int, float, bool, NONE})
"""What passes without marshmallow, as itself."""

MISSING = "required, but not given."
UNKNOWN = "there is no such argument."
TWICE = "given twice, by position and by name."

MOST_SHAPES = 100
"""Of a task that is called in more ways than that, the others are looked at closer."""

LATER = object()
"""An argument that is not known yet."""

_encode = msgspec.json.Encoder().encode


class _Body(msgspec.Struct):
    """A call as it travels; what is empty is left out."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


_Scalar = Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)] | str | float | bool | None


class _ScalarBody(msgspec.Struct, gc=False):
    """The same of a call with nothing but scalars that JSON carries unchanged."""

    args: list[_Scalar] = []
    kwargs: dict[str, _Scalar] = {}


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_scalars = msgspec.json.Decoder(_ScalarBody).decode
decode_json: Callable[[bytes | msgspec.Raw], Any] = msgspec.json.Decoder().decode


class _Slot:
    """One parameter. ``plain``: the exact types that are the same on both sides and need no look by marshmallow.

    Raises ConfigError for a type that cannot travel.
    """

    def __init__(self, parameter: inspect.Parameter, annotation: Any, label: str) -> None:
        kind = parameter.kind
        self.name = parameter.name
        self.kind = kind
        self.required = parameter.default is parameter.empty and kind not in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD)
        self.default: Any = parameter.default
        self.plain = SCALARS if annotation in (Any, object) else _scalars_of(annotation)
        self._annotation = annotation
        self._owner = f"{label}: argument {parameter.name}"
        if not self.plain:
            self.validator  # noqa: B018 -- made now, for what it raises

    @functools.cached_property
    def validator(self) -> Validator:
        """What values that are not plain go through."""
        from taskstream import dataobjects, json_only

        annotation = self._annotation
        inside_unknown = annotation in (Any, object, list, dict) or (
            typing.get_origin(annotation) in (list, dict) and Any in typing.get_args(annotation)
        )
        return (json_only.JsonOnly if inside_unknown else dataobjects.Validator)(annotation, self._owner)


class Parameter(msgspec.Struct, frozen=True):
    """One parameter, for whoever describes a function to others.

    ``by_position`` and ``by_name`` say how it may be given; ``rest``: any number may be given by its kind of way.
    ``default`` is plain JSON, UNSET where there is none or none that JSON can carry.
    """

    name: str
    field: Strict
    required: bool
    by_position: bool
    by_name: bool
    rest: bool
    default: Any = msgspec.UNSET


class _Plan(msgspec.Struct, frozen=True):
    """How to check a call with so many positional arguments: types by position, by name, and what must be named.

    ``complete`` is how many names make a call that lacks nothing.
    """

    by_position: tuple[frozenset[type], ...]
    by_name: dict[str, frozenset[type]]
    required: tuple[str, ...]
    complete: int


class Arguments:
    """The parameters of one function. ``label`` names it in errors.

    Raises ConfigError for annotations that cannot be resolved, or of a type that cannot travel.
    """

    def __init__(self, function: Callable[..., Any], label: str) -> None:
        self._label = label
        self._positional: list[_Slot] = []
        self._named: dict[str, _Slot] = {}
        self._rest: _Slot | None = None
        self._named_rest: _Slot | None = None
        self._slots: list[_Slot] = []
        parameters = inspect.signature(function).parameters
        hints = _hints(function, label, lambda name: name in parameters)
        for parameter in parameters.values():
            slot = _Slot(parameter, hints.get(parameter.name, Any), label)
            self._slots.append(slot)
            match parameter.kind:
                case parameter.VAR_POSITIONAL:
                    self._rest = slot
                case parameter.VAR_KEYWORD:
                    self._named_rest = slot
                case parameter.POSITIONAL_ONLY:
                    self._positional.append(slot)
                case parameter.KEYWORD_ONLY:
                    self._named[slot.name] = slot
                case parameter.POSITIONAL_OR_KEYWORD:
                    self._positional.append(slot)
                    self._named[slot.name] = slot
        self._plans = list(self._make_plans())
        # Others would be decoded twice.
        self._scalars = all(slot.plain for slot in (*self._positional, *self._named.values()))
        self._shapes: set[tuple[Any, ...]] = set()
        """What calls looked like that fit: how many arguments by position, names, and the types of all."""

    @property
    def parameters(self) -> list[Parameter]:
        """What there is to give, in the order of the function's own parameters."""
        return [_described(slot) for slot in self._slots]

    def _make_plans(self) -> Iterator[_Plan]:
        by_position = tuple(slot.plain for slot in self._positional)
        for count in range(len(by_position) + 1):
            given = {slot.name for slot in self._positional[:count]}
            left = [slot for slot in {**_by_name(self._positional), **self._named}.values() if slot.name not in given]
            by_name = {name: slot.plain for name, slot in self._named.items() if name not in given}
            required = tuple(slot.name for slot in left if slot.required)
            yield _Plan(
                by_position=by_position[:count],
                by_name=by_name,
                required=required,
                # What is required by position only cannot be made up for by names.
                complete=len(by_name) if by_name.keys() >= set(required) else -1,
            )

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """The body of a call. Raises ValidationError naming each argument that does not fit."""
        if _plain(self._plans, args, kwargs):
            try:
                return _encode(_parts(args, kwargs))
            except UnicodeEncodeError:
                pass  # a lone surrogate: told below which argument has it
        return encode_json(_parts(*self._convert(args, kwargs, lambda validator: validator.dump)))

    def encode_fed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """The body, but for its first argument, of a call that gets that later. Raises as ``encode`` does."""
        found_args, found_kwargs = self._convert([LATER, *args], kwargs, lambda validator: validator.dump)
        return encode_json(_parts(found_args[1:], found_kwargs))

    def canonical(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """The same bytes for every way to make one call: by position or by name, with or without what is the default.

        Raises ValidationError as ``encode`` does.
        """
        found_args, found_kwargs = self._convert(args, kwargs, lambda validator: validator.dump)
        most = len(self._positional)
        said = dict(zip((slot.name for slot in self._positional), found_args, strict=False))
        # What ``**kwargs`` takes may be called like a parameter that goes by position only.
        others = {name: value for name, value in found_kwargs.items() if name not in self._named}
        said |= {name: value for name, value in found_kwargs.items() if name in self._named}
        for name, slot in {**_by_name(self._positional), **self._named}.items():
            if name not in said and slot.default is not inspect.Parameter.empty:
                with contextlib.suppress(ValidationError):  # one that no call could give: nothing to mix it up with
                    said[name] = slot.validator.dump(slot.default)
        return msgspec.json.encode([said, found_args[most:], others], order="sorted")

    def decode(self, body: bytes) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Positional and named arguments of their annotated types. Raises InvalidMessage saying what does not fit."""
        if self._scalars:
            try:
                call: _ScalarBody | _Body = _decode_scalars(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # told below what it is
            else:
                args, kwargs = call.args, call.kwargs
                # Whether scalars fit is a matter of their types alone.
                shape = (len(args), *kwargs, *map(type, args), *map(type, kwargs.values()))
                if shape in self._shapes:
                    return args, kwargs
                if len(self._shapes) < MOST_SHAPES and _plain(self._plans, args, kwargs):
                    self._shapes.add(shape)
        try:
            call = _decode_body(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidMessage(f"{self._label}: the body is no call of a task: {error}") from None
        try:
            return self.load(call.args, call.kwargs)
        except ValidationError as error:
            raise InvalidMessage(str(error)) from None

    def load(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments out of JSON, of their annotated types. Raises ValidationError naming each that does not fit."""
        if _plain(self._plans, args, kwargs):
            return args, kwargs
        return self._convert(args, kwargs, lambda validator: validator.load)

    def _convert(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], way: Callable[[Validator], Callable[[Any], Any]]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Bind a call as Python does and convert each argument; all errors are raised together."""
        errors: dict[str, Any] = {}

        def convert_one(name: str, slot: _Slot, value: Any) -> Any:
            try:
                return value if value is LATER else way(slot.validator)(value)
            except ValidationError as error:
                errors[name] = error.errors.get("_schema", error.errors)

        found_args: list[Any] = []
        found_kwargs: dict[str, Any] = {}
        for index, value in enumerate(args):
            if index < len(self._positional):
                found_args.append(convert_one(self._positional[index].name, self._positional[index], value))
            elif self._rest is not None:
                found_args.append(convert_one(f"{self._rest.name}.{index - len(self._positional)}", self._rest, value))
            else:
                most = len(self._positional)
                errors["args"] = [f"takes {most} positional argument{'s' * (most != 1)}, but {len(args)} were given."]
                break
        by_position = {slot.name for slot in self._positional[: len(args)]}
        for name, value in kwargs.items():
            slot = self._named.get(name)
            if slot is not None and name in by_position:
                errors[name] = [TWICE]
            elif slot is not None:
                found_kwargs[name] = convert_one(name, slot, value)
            elif self._named_rest is not None:
                found_kwargs[name] = convert_one(name, self._named_rest, value)
            else:
                errors[name] = [UNKNOWN]
        for name, slot in {**_by_name(self._positional), **self._named}.items():
            if slot.required and name not in by_position and (name not in self._named or name not in kwargs):
                errors.setdefault(name, [MISSING])
        if errors:
            raise ValidationError(f"{self._label}: {one_line(errors)}", errors)
        return found_args, found_kwargs


class ReturnValue:
    """A function's value on its way back, of the annotated type where it fits that, else as plain JSON.

    A task that has done its work is not failed for an annotation that was not true.
    """

    def __init__(self, function: Callable[..., Any], label: str) -> None:
        self._annotation: Any = None
        """None: of a type that is nothing special in JSON, or known to mypy only."""
        with contextlib.suppress(ConfigError):
            self._annotation = _hints(function, label, lambda name: name == "return").get("return", Any)
        self._plain = _scalars_of(self._annotation)

    @functools.cached_property
    def _validator(self) -> Validator | None:
        from taskstream import dataobjects

        if self._annotation is not None:
            with contextlib.suppress(ConfigError):
                return dataobjects.Validator(self._annotation)
        return None

    def dump(self, value: object) -> bytes:
        """The value as JSON. Raises ValidationError for what JSON cannot carry."""
        if value is None:
            return b"null"
        if type(value) not in SCALARS and self._validator is not None:
            with contextlib.suppress(ValidationError):
                value = self._validator.dump(value)
        return encode_json(value)

    def load(self, raw: bytes | msgspec.Raw) -> Any:
        """The value again."""
        plain = decode_json(raw)
        if type(plain) not in self._plain and self._annotation is not Any and self._validator is not None:
            with contextlib.suppress(ValidationError):
                return self._validator.load(plain)
        return plain


def _hints(function: Callable[..., Any], label: str, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Annotations by name, resolved one function's part at a time: a wrong one elsewhere does no harm."""
    origin: Any = inspect.unwrap(function)
    while isinstance(origin, functools.partial):
        origin = inspect.unwrap(origin.func)
    if not hasattr(origin, "__globals__"):  # an object with __call__
        origin = type(origin).__call__
    raw = {name: hint for name, hint in getattr(origin, "__annotations__", {}).items() if wanted(name)}
    part = types.SimpleNamespace(__annotations__=raw)
    try:
        return typing.get_type_hints(part, globalns=getattr(origin, "__globals__", {}))
    except NameError as error:
        raise ConfigError(f"{label}: an annotation names {error.name!r}, which its module does not have") from None
    except Exception as error:  # whatever evaluating somebody's annotation raises
        raise ConfigError(f"{label}: its annotations cannot be read: {error}") from None


def _described(slot: _Slot) -> Parameter:
    kind = slot.kind
    default: Any = msgspec.UNSET
    if slot.default is not inspect.Parameter.empty:
        with contextlib.suppress(ValidationError):
            default = slot.validator.dump(slot.default)
    return Parameter(
        name=slot.name,
        field=slot.validator.field,
        required=slot.required,
        by_position=kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD, kind.VAR_POSITIONAL),
        by_name=kind in (kind.KEYWORD_ONLY, kind.POSITIONAL_OR_KEYWORD, kind.VAR_KEYWORD),
        rest=kind in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD),
        default=default,
    )


def _scalars_of(annotation: Any) -> frozenset[type]:
    """The scalar types of an annotation that is nothing but such, or an Optional or Union of them."""
    members: list[Any] = [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = list(typing.get_args(annotation))
    found: set[type] = {NONE if member is None else member for member in members}
    return frozenset(found) if found <= SCALARS else frozenset()


def _by_name(slots: Sequence[_Slot]) -> dict[str, _Slot]:
    return {slot.name: slot for slot in slots}


def _plain(plans: Sequence[_Plan], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call binds and all of it is scalars as annotated. False says only that a closer look is needed.

    A number has to be one that JSON carries unchanged: 64 bits, finite.
    """
    count = len(args)
    if count >= len(plans):
        return False
    plan = plans[count]
    if count:
        for accepted, value in zip(plan.by_position, args):  # noqa: B905 -- of one length; checking that costs
            kind = type(value)
            if (
                kind not in accepted
                or (kind is int and not INT_MIN <= value <= INT_MAX)
                or (kind is float and not isfinite(value))
            ):
                return False
    by_name = plan.by_name
    for name, value in kwargs.items():
        kind = type(value)
        if (
            name not in by_name
            or kind not in by_name[name]
            or (kind is int and not INT_MIN <= value <= INT_MAX)
            or (kind is float and not isfinite(value))
        ):
            return False
    return len(kwargs) == plan.complete or all(name in kwargs for name in plan.required)


def _parts(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if args:
        return {"args": args, "kwargs": kwargs} if kwargs else {"args": args}
    return {"kwargs": kwargs} if kwargs else {}
