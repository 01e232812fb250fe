"""Options that are numbers, by names that people use: click's own say "integer range"."""

from __future__ import annotations

import math
from typing import Any

import click

from taskstream.durations import parse_duration


class Whole(click.IntRange):
    """A whole number in a range."""

    name = "whole number"


class Duration(click.types.FloatParamType):
    """Seconds as a number, or text such as ``2h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} is no duration: give {error}.", param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds in a range. NaN is refused, although it compares as if it were within any."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number as float."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return found
