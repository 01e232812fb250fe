"""``/healthz``: this process answers. ``/readyz``: and it reaches the broker."""

from __future__ import annotations

from flask import Flask, Response

from taskstream.broker import Broker


def register(app: Flask, broker: Broker) -> None:
    """Serve both probes. An unreachable broker is answered as 503 by the error handler."""

    def healthz() -> Response:
        return Response('{"status": "ok"}', content_type="application/json")

    def readyz() -> Response:
        broker.ping()
        return Response('{"status": "ready"}', content_type="application/json")

    app.add_url_rule("/healthz", view_func=healthz)
    app.add_url_rule("/readyz", view_func=readyz)
