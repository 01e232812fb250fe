"""POST and GET events: ``/api/{app}/{version}/{event}``. The way from bytes to the event and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

from werkzeug.datastructures import EnvironHeaders
from werkzeug.wsgi import get_input_stream

from taskstream.errors import BrokerUnavailable, ConfigError, QueueFull, ValidationError
from taskstream.events import EventRequest, RequestEvent
from taskstream.events.request import Publish

from .auth import refuse_cross_site
from .errors import FAILED, Problem, invalid, unavailable
from .lean import LeanFlask, Reply, View
from .tracking import EVENT_APP, track_of

MAX_QUERY_ARGUMENTS = 100


def check_json(environ: dict[str, Any]) -> None:
    """Raises Problem 415 unless the body says it is JSON in UTF-8, as it is."""
    said = environ.get("CONTENT_TYPE", "")
    if said == "application/json" and "HTTP_CONTENT_ENCODING" not in environ:
        return  # as nearly everybody says it
    kind, _, parameters = said.lower().partition(";")
    kind = kind.strip()
    accepted = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if accepted and parameters:
        name, _, value = parameters.strip().partition("=")
        accepted = name.strip() != "charset" or value.strip(' "') in ("utf-8", "utf8", "us-ascii")
    if not accepted:
        raise Problem(415, "send the payload as Content-Type: application/json", headers={"Accept": "application/json"})
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise Problem(415, "a compressed payload is not taken", headers={"Accept-Encoding": "identity"})


def read_body(environ: dict[str, Any], limit: int) -> bytes:
    """The whole body. Raises Problem 413 for more than ``limit`` bytes (read no further), 400 if it ended early."""
    length = environ.get("CONTENT_LENGTH")
    if length:
        if not (length.isascii() and length.isdigit()):
            raise Problem(400, "Content-Length is not a number")
        if len(length) > 15 or int(length) > limit:
            raise _too_large(limit)
        # The server hands the stream over as it comes; where it does not end by itself, werkzeug ends it.
        ends = environ.get("wsgi.input_terminated")
        found: bytes = (environ["wsgi.input"] if ends else get_input_stream(environ, safe_fallback=True)).read()
        if len(found) != int(length):
            raise Problem(400, f"the payload ended after {len(found)} of {length} bytes")
        return found
    if not environ.get("wsgi.input_terminated"):
        return b""
    stream, chunks, size = environ["wsgi.input"], [], 0
    while size <= limit and (chunk := stream.read(min(65_536, limit + 1 - size))):
        chunks.append(chunk)
        size += len(chunk)
    if size > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the payload is larger than {limit} bytes")


def read_query(text: str) -> dict[str, list[str]]:
    """The query arguments, each with every value it came with. Raises Problem 400 for what is none."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_ARGUMENTS)
    except UnicodeDecodeError:
        raise Problem(400, "the query is not UTF-8") from None
    except ValueError:
        raise Problem(400, f"more than {MAX_QUERY_ARGUMENTS} query arguments") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _view(event: RequestEvent, publish: Publish, limit: int) -> View:
    takes_payload = event.method == "POST"
    event_app = event.app.key
    respond = event.respond

    def view(environ: dict[str, Any]) -> Reply:
        environ[EVENT_APP] = event_app
        refuse_cross_site(environ)
        payload = read_body(environ, limit) if takes_payload else None
        if payload:
            check_json(environ)
        headers = cast("Mapping[str, str]", EnvironHeaders(environ))
        asked = EventRequest(payload, read_query(environ["QUERY_STRING"]), track_of(environ), headers)
        # Errors of respond() are not left to the error handlers, because it has logged them already. Any exception
        # ends here, also sys.exit() and a cancelled coroutine: the server must not take them for its own end.
        try:
            answer = respond(asked, publish)
        except ValidationError as error:
            return invalid(error).reply(environ)
        except (BrokerUnavailable, QueueFull, ConfigError) as error:
            return unavailable(error).reply(environ)
        except BaseException:
            return FAILED.reply(environ)
        return Reply(answer.body, answer.status, answer.headers, answer.content_type)

    return view


def register(app: LeanFlask, events: list[RequestEvent], publish: Publish, limit: int) -> None:
    """Serve ``events``; ``publish`` puts what they return on their streams, ``limit`` bounds a payload in bytes."""
    for event in events:
        app.add_exact_rule(event.route, event.label, _view(event, publish, limit), event.method)
