"""Loggers for the authors of events: lines that say which event wrote them, and for which request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from taskstream.app.context import EventContext

Extra = Callable[..., Mapping[str, object]]


class AppLogger:
    """Writes lines of an event. A level that is off costs one check."""

    def log(
        self,
        level: int,
        context: EventContext,
        text: str,
        *,
        extra: Mapping[str, object] | None = None,
        exc: BaseException | None = None,
    ) -> None:
        """One line with ``extra``'s fields and the request's ids; ``exc`` adds ``error.*`` fields."""
        log = context.log
        if log.enabled(level):
            fields = dict(extra or {})
            for name, value in context.track_ids.items():
                fields[f"track.{name}"] = value
            log.log(level, text, fields, exc)

    def debug(self, context: EventContext, text: str, *, extra: Mapping[str, object] | None = None) -> None:
        """``log`` at DEBUG."""
        self.log(logging.DEBUG, context, text, extra=extra)

    def info(self, context: EventContext, text: str, *, extra: Mapping[str, object] | None = None) -> None:
        """``log`` at INFO."""
        self.log(logging.INFO, context, text, extra=extra)

    def warning(
        self,
        context: EventContext,
        text: str,
        *,
        extra: Mapping[str, object] | None = None,
        exc: BaseException | None = None,
    ) -> None:
        """``log`` at WARNING."""
        self.log(logging.WARNING, context, text, extra=extra, exc=exc)

    def error(
        self,
        context: EventContext,
        text: str,
        *,
        extra: Mapping[str, object] | None = None,
        exc: BaseException | None = None,
    ) -> None:
        """``log`` at ERROR."""
        self.log(logging.ERROR, context, text, extra=extra, exc=exc)


def extra_fields(**values: object) -> Mapping[str, object]:
    """``extra(length=10)``: fields of a line, shown as ``extra.length=10``."""
    return {f"extra.{name}": value for name, value in values.items()}


def app_extra_logger() -> tuple[AppLogger, Extra]:
    """``logger, extra = app_extra_logger()``, once per module."""
    return AppLogger(), extra_fields
