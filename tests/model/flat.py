"""The base of everything that has a state: flat dicts of unchanging values, so that a copy and a hash are cheap."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self


class Flat:
    """``STATE`` names what makes the state; anything else an instance has is shared by its copies."""

    STATE: tuple[str, ...] = ()

    def copy(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__ |= self.__dict__
        for name in self.STATE:
            value = new.__dict__[name]
            if isinstance(value, (dict, Flat)):
                new.__dict__[name] = value.copy()
        return new

    def key(self) -> Hashable:
        """Equal for equal states."""
        return tuple([_key(self.__dict__[name]) for name in self.STATE])


def _key(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset(value.items())
    return value.key() if isinstance(value, Flat) else value
