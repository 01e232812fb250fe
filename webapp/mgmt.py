"""Stop and start the consumption of an event: ``GET|POST /mgmt/{app}/{version}/{event}/start|stop``."""

from __future__ import annotations

import msgspec
from flask import Flask, Response, request

from taskstream.broker import Broker
from taskstream.control import STARTED, STOPPED, Control
from taskstream.handler import Subscription
from taskstream.logs import engine_logger

from .auth import refuse_cross_site
from .errors import Problem, fields_of_request

ANSWER_TIMEOUT_S = 5.0
"""How long to wait for the workers; the choice is kept whether or not they answer in time."""

STATES = {"start": STARTED, "stop": STOPPED}

log = engine_logger("mgmt")


def register(app: Flask, broker: Broker, subscriptions: list[Subscription]) -> None:
    """Serve the routes for ``subscriptions``, which go by their label ``app.version.event``."""
    known = {found.label: found for found in subscriptions}
    control = Control(broker)

    def manage(app_name: str, version: str, event: str, action: str) -> Response:
        if request.method == "HEAD":  # Flask's addition to GET; what asks so expects that nothing happens
            raise Problem(405, "use POST or GET", headers={"Allow": "GET, OPTIONS, POST"})
        refuse_cross_site(request.environ)
        if request.query_string:
            raise Problem(400, "this route takes no query arguments")
        found = known.get(f"{app_name}.{version}.{event}")
        if found is None:
            raise Problem(404, "no such STREAM event is configured here")
        state = STATES[action]
        replies = control.set_state(found.stream, found.group, state, timeout=ANSWER_TIMEOUT_S)
        answer: dict[str, object] = {
            "event": found.label,
            "state": state,
            "workers": [reply.worker for reply in replies if reply.ok],
        }
        failed = [{"worker": reply.worker, "error": reply.error} for reply in replies if not reply.ok]
        if failed:
            answer["failed"] = failed
        log.info("Choice made", {**fields_of_request(), "event": found.label, "state": state, "workers": len(replies)})
        return Response(msgspec.json.encode(answer), content_type="application/json")

    app.add_url_rule(
        "/mgmt/<app_name>/<version>/<event>/<any(start, stop):action>", view_func=manage, methods=["GET", "POST"]
    )
