"""Calls of tasks over HTTP: ``POST /api/tasks/{name}`` sends one, GET and DELETE follow it up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
from flask import Request, Response, request

from taskstream.broker.states import PENDING, PROGRESS
from taskstream.errors import ResultUnavailable, ValidationError
from taskstream.logs import engine_logger
from taskstream.message import MESSAGE_ID
from taskstream.nearest import suggestion
from taskstream.results.base import FINAL_STATES, Outcome
from taskstream.results.record import record, record_of_unfinished

from .auth import refuse_cross_site
from .calls import OPTIONS, options_of, read_call, refused
from .errors import Problem, fields_of_request, invalid
from .events import check_json, read_body, read_query
from .held import Held
from .lean import LeanFlask, Reply, View
from .prefer import idempotency_key_of, wait_of
from .streams import END, Now, stream
from .tracking import track_of

if TYPE_CHECKING:
    from taskstream import Task, Taskstream

PATH = "/api/tasks"

JSON = "application/json"

_encode = msgspec.json.Encoder().encode

log = engine_logger("tasks")


class Tasks:
    """The routes of one app's tasks."""

    def __init__(self, app: Taskstream, held: Held, max_body_bytes: int) -> None:
        self._app = app
        self._held = held
        self._limit = max_body_bytes

    def sender(self, task: Task[..., Any, Any]) -> View:
        """The view that sends calls of ``task``."""

        def view(environ: dict[str, Any]) -> Reply:
            refuse_cross_site(environ)
            _refuse_query(environ)
            body = read_body(environ, self._limit)
            if body:
                check_json(environ)
            call = read_call(body)
            options = options_of(call.options, track_of(environ), idempotency_key_of(environ))
            return self._send(task, call.args, call.kwargs, options, environ)

        return view

    def _send(
        self, task: Task[..., Any, Any], args: Any, kwargs: Any, options: dict[str, Any], environ: dict[str, Any]
    ) -> Reply:
        try:
            args, kwargs = task.arguments_of(args, kwargs)
        except ValidationError as error:
            raise invalid(error) from None
        try:
            handle = task.apply_async(args, kwargs, **options)
        except ValidationError as error:
            if error.errors.keys() <= OPTIONS:
                raise refused({"options": error.errors}) from None
            raise invalid(error) from None
        if log.enabled(logging.INFO):
            track = {f"track.{name}": value for name, value in track_of(environ).items()}
            log.info("Sent", {"task": task.name, "id": handle.id, **track})
        headers = {"Location": f"{_root_of(environ)}{PATH}/{handle.id}"}
        outcome = None
        if wait := wait_of(environ):
            outcome = self._wait(handle.id, options.get("queue") or task.queue, wait, headers)
        if outcome is not None:
            return _reply(record(outcome), 200, headers)
        state = "SCHEDULED" if "countdown" in options or "eta" in options else "PENDING"
        return _reply({"id": handle.id, "state": state}, 202, headers)

    def unknown(self, name: str) -> Response:
        """The view for a task that there is not."""
        refuse_cross_site(request.environ)
        raise Problem(404, f"there is no task {name[:200]!r} here{suggestion(name, self._app.tasks)}")

    def look(self, message_id: str) -> Response:
        """The view that tells what became of a call."""
        environ = request.environ
        _refuse_query(environ)
        _check_id(message_id)
        headers = {"Cache-Control": "no-store"}
        if wait := wait_of(environ):
            self._wait(message_id, None, wait, headers)
        return _answer(self._now(message_id).record, 200, headers)

    def listen(self, message_id: str) -> Response:
        """The view that tells what becomes of a call as it happens."""
        _check_id(message_id)
        _refuse_query(request.environ)
        outcomes, queues = self._app.outcomes, self._app.queues()
        return stream(lambda: self._now(message_id), lambda: outcomes.watching(message_id, queues), self._held)

    def _now(self, message_id: str) -> Now:
        """What is known of a call. Raises ResultUnavailable."""
        found = self._app.AsyncResult(message_id).look()
        if isinstance(found, Outcome):
            if found.state in FINAL_STATES:
                return Now("result", END, record(found))
            return Now("state", f"{found.state}-{found.attempts}", record(found))
        if found.state == PENDING:
            if message_id in self._app.tasks:  # a curl that forgot its -d: PENDING would look like a call under way
                raise Problem(404, f"{message_id!r} is a task, not the id of a call: POST calls it")
            self._app.outcomes.check_reachable(self._app.queues())
            return Now("state", PENDING, {"id": message_id, "state": PENDING})
        # Two of one millisecond differ by what they say.
        mark = f"{found.state}-{found.delivery}-{found.at_ms}-{crc32(_encode(found.info)):08x}"
        kind = "progress" if found.state == PROGRESS else "state"
        return Now(kind, mark, record_of_unfinished(message_id, found))

    def revoke(self, message_id: str) -> Response:
        """The view that has a call not run any more."""
        environ = request.environ
        refuse_cross_site(environ)
        _check_id(message_id)
        asked = _revoke_query(environ)
        try:
            outcome = self._app.outcomes.read(message_id)
        except ResultUnavailable:
            outcome = None  # revoking needs no results
        if outcome is not None and outcome.state in FINAL_STATES:
            return _answer({**record(outcome), "revoked": False}, 200, {})
        try:
            self._app.revoke(message_id, terminate=asked.get("terminate") == "true", queue=asked.get("queue"))
        except ValidationError as error:
            raise refused({"queue": [str(error)]}) from None
        if log.enabled(logging.INFO):
            log.info("Revoked", {**fields_of_request(), "message.id": message_id, **asked})
        return _answer(
            {"id": message_id, "state": PENDING if outcome is None else outcome.state, "revoked": True}, 202, {}
        )

    def _wait(self, message_id: str, queue: str | None, seconds: int, headers: dict[str, str]) -> Outcome | None:
        """The final outcome, if there is one in time; says in ``headers`` whether it was waited for."""
        with self._held.one() as may:
            if not may:
                return None  # a preference may be ignored; a thread that is not there cannot be had
            queues = self._app.queues() if queue is None else (queue,)
            try:
                found = self._app.outcomes.wait(message_id, queues, seconds, lambda: self._held.stopping)
            except ResultUnavailable:
                return None  # of a message that was sent the answer says so; GET has the reason
            headers["Preference-Applied"] = f"wait={seconds}"
            return found


def _check_id(message_id: str) -> None:
    """Raises Problem 404 for what is no id."""
    if not MESSAGE_ID.fullmatch(message_id):
        raise Problem(404, f"{message_id[:200]!r} is no id of a message")


def _revoke_query(environ: dict[str, Any]) -> dict[str, str]:
    """``terminate`` and ``queue`` as asked for. Raises Problem 400 for anything else."""
    errors: dict[str, object] = {}
    found: dict[str, str] = {}
    for name, values in read_query(environ["QUERY_STRING"]).items():
        if name not in ("terminate", "queue"):
            errors[name[:200]] = ["Unknown query argument: there are only terminate and queue."]
        elif len(values) > 1:
            errors[name] = ["Given more than once."]
        elif name == "terminate" and values[0] not in ("true", "false"):
            errors[name] = ["Not true or false."]
        else:
            found[name] = values[0]
    if errors:
        raise refused(errors)
    return found


def _refuse_query(environ: dict[str, Any]) -> None:
    if environ["QUERY_STRING"]:
        raise Problem(400, "this route takes no query arguments")


def _root_of(environ: dict[str, Any]) -> str:
    """What the paths of this app begin with, as Flask has it."""
    root: str = environ.get("SCRIPT_NAME", "")
    return root and Request(environ).root_path


def _reply(body: dict[str, object], status: int, headers: Mapping[str, str | list[str]]) -> Reply:
    return Reply(_encode(body), status, headers, JSON)


def _answer(body: dict[str, object], status: int, headers: Mapping[str, str | list[str]]) -> Response:
    return _reply(body, status, headers).response()


def register(app: LeanFlask, tasks_app: Taskstream, held: Held, max_body_bytes: int) -> None:
    """Serve the tasks of ``tasks_app``."""
    tasks = Tasks(tasks_app, held, max_body_bytes)
    for name, task in tasks_app.tasks.items():
        app.add_exact_rule(f"{PATH}/{name}", f"task.{name}", tasks.sender(task), "POST")
    app.add_url_rule(f"{PATH}/<name>", endpoint="task", view_func=tasks.unknown, methods=["POST"])
    app.add_url_rule(f"{PATH}/<message_id>", endpoint="call", view_func=tasks.look, methods=["GET"])
    app.add_url_rule(f"{PATH}/<message_id>", endpoint="call.revoke", view_func=tasks.revoke, methods=["DELETE"])
    app.add_url_rule(f"{PATH}/<message_id>/events", endpoint="call.events", view_func=tasks.listen, methods=["GET"])
