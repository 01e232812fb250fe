"""``/``: a plain page of streams, groups and workers as they are now. It only looks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from flask import Flask, Response, render_template

from taskstream.broker import Broker
from taskstream.errors import BrokerUnavailable
from taskstream.handler import Subscription
from taskstream.inspector import overview

from .errors import RETRY_AFTER_S
from .pages import page

REFRESH_S = 5


def age(seconds: float | None) -> str:
    """A duration for people: ``12 s``, ``3 min``, ``5 h``, ``2 d``; a dash for None."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def register(app: Flask, broker: Broker, subscriptions: Iterable[Subscription], docs_path: str | None) -> None:
    """Serve the page."""
    labels = {(found.stream, found.group): found.label for found in subscriptions}
    streams = {found.stream for found in subscriptions}
    app.add_template_filter(age)

    def state() -> Response:
        common = {"broker": broker.display_url, "docs_path": docs_path, "refresh_s": REFRESH_S}
        try:
            found = overview(broker, streams)
        except BrokerUnavailable as error:
            answer = page(render_template("state.html", found=None, error=str(error), **common), status=503)
            answer.headers["Retry-After"] = str(RETRY_AFTER_S)
            return answer
        rows = [
            {
                **msgspec.structs.asdict(group),
                "stream": stream.name,
                "length": stream.length,
                "label": group.label or labels.get((stream.name, group.name)),
            }
            for stream in found.streams
            for group in stream.groups
        ]
        idle = [stream for stream in found.streams if not stream.groups and stream.problem is None]
        return page(render_template("state.html", found=found, rows=rows, idle=idle, **common))

    app.add_url_rule("/", view_func=state)
