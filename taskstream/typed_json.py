"""JSON straight to a dataobject of plain fields, without the plain dict in between. Only what it is sure of.

A decoder accepts nothing that the functions of ``taskstream.fields`` refuse, and makes the same values of it; what it
refuses it says nothing about: the caller asks those functions then, so that there is one judge, and one set of errors.
Fields of other types, and whatever Python code of the class may decide, are left to
the others by not making a decoder at all.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from taskstream import fields
from taskstream.scalars import INT_MAX, INT_MIN, Mismatch

Decode = Callable[[bytes], Any]
"""JSON → object. Raises Mismatch for what it does not accept, which says nothing about whether it is right."""

_PLAIN: dict[type[fields.Strict], Any] = {
    fields.String: str,
    # JSON's integers have no bounds, and msgspec takes them all.
    fields.Integer: Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)],
    fields.Float: float,
    fields.Boolean: bool,
}


def decoder_for(kind: type[Any], declared: Mapping[str, fields.Strict]) -> Decode | None:
    """The decoder of a dataclass constructed from the fields ``declared``; None where one of them is not plain."""
    members: list[Any] = []
    for name, field in declared.items():
        annotation = _annotation(field)
        if annotation is None:
            return None
        if field.required:
            members.append((name, annotation))
        else:
            members.append((name, annotation | msgspec.UnsetType, msgspec.UNSET))
    try:
        # By keyword, because fields with a default may come before others in a dataclass of keywords.
        shape = msgspec.defstruct(kind.__name__, members, forbid_unknown_fields=True, kw_only=True)
        decode = msgspec.json.Decoder(shape).decode
    except (TypeError, ValueError):  # a name that msgspec has another use for
        return None
    named = msgspec.structs.asdict
    complete = all(field.required for field in declared.values())

    def read(text: bytes) -> Any:
        try:
            found = named(decode(text))
            if not complete:
                found = {name: value for name, value in found.items() if value is not msgspec.UNSET}
            return kind(**found)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):  # a __post_init__ raises some, too
            raise Mismatch from None

    return read


def _annotation(field: fields.Strict) -> Any:
    """The type by which msgspec reads exactly what ``field`` reads, None where there is none."""
    found = _PLAIN.get(type(field))
    if type(field) is fields.EnumValue and _by_text(field.enum):
        found = field.enum
    elif type(field) is fields.Items and field.makes_list:
        inner = _annotation(field.item)
        found = None if inner is None else list[inner]  # type: ignore[valid-type]
    return found | None if found is not None and field.allow_none else found


def _by_text(kind: type[enum.Enum]) -> bool:
    """Whether an Enum is found by a text and nothing else: msgspec would ask a ``_missing_`` of its own as well."""
    texts = all(type(member.value) is str for member in kind)
    return texts and "_missing_" not in {name for base in kind.__mro__ if base is not enum.Enum for name in vars(base)}
