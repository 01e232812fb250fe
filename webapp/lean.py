"""Flask without what this app never uses, at the places Flask offers for it; exact paths are answered beside it.

A path without variables whose view needs only the WSGI environment is answered without request and response objects
and contexts, which cost more than all the rest of a POST; whatever goes wrong there is answered by Flask as ever.
Nothing here changes what a client sees; see benchmarks/RESULTS.md for what each part saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, Request, Response, request
from flask.sessions import NullSession, SessionInterface
from flask.signals import appcontext_pushed, request_finished, request_started
from werkzeug.routing import MapAdapter, Rule

from .tracking import REQUEST

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Before = Callable[["WSGIEnvironment"], None]
"""Called with the environment of every request before it is routed. May raise what the error handlers answer."""

After = Callable[["WSGIEnvironment", str | None, int], list[tuple[str, str]]]
"""Called with environment, route (None: there is none) and status of every answer; returns headers to add."""


class NoSessions(SessionInterface):
    """There are no cookies here."""

    _nothing = NullSession()

    def open_session(self, app: Flask, request: Any) -> NullSession:
        """The same empty session for every request; it refuses writes."""
        return self._nothing

    def is_null_session(self, obj: object) -> bool:
        """Always: nothing is ever saved."""
        return True


class Reply(NamedTuple):
    """An answer in one piece. A header has several values where it is sent several times."""

    body: bytes
    status: int
    headers: Mapping[str, str | list[str]]
    content_type: str

    def response(self) -> Response:
        """The same for Flask."""
        return Answer(self.body, self.status, self.headers, content_type=self.content_type)

    def wsgi_headers(self) -> list[tuple[str, str]]:
        """Names and values as a server takes them, those that Flask would send."""
        found: list[tuple[str, str]] = []
        for name, value in self.headers.items():
            if type(value) is not str or name.lower() in _OWN:
                return self.response().headers.to_wsgi_list()
            found.append((name, value))
        found += (("Content-Type", self.content_type), ("Content-Length", str(len(self.body))))
        return found


_OWN = frozenset({"content-type", "content-length"})


@lru_cache
def _status_line(status: int) -> str:
    return Response(status=status).status


View = Callable[["WSGIEnvironment"], Reply]
"""The view of an exact path. May raise what the error handlers answer."""


class LeanFlask(Flask):
    """An app whose views and hooks are plain functions and which never redirects."""

    def __init__(self, import_name: str, before: Before, after: After) -> None:
        super().__init__(import_name)
        self.session_interface = NoSessions()
        self.url_map.merge_slashes = False  # a redirected POST would have to be sent twice
        self._before = before
        self._after = after
        self._exact: dict[tuple[str, str], tuple[Rule, View]] = {}

    def add_exact_rule(self, path: str, endpoint: str, view: View, method: str) -> None:
        """``add_url_rule`` for a path without variables whose view needs no Flask; found by one look-up."""
        self.add_url_rule(path, endpoint=endpoint, view_func=lambda: view(request.environ).response(), methods=[method])
        self._exact[(method, path)] = next(self.url_map.iter_rules(endpoint)), view

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer. Exact paths beside Flask, unless somebody hooked into its way."""
        token = REQUEST.set(environ)
        try:
            found = self._exact.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            if found is None or self._hooked():
                return super().wsgi_app(environ, start_response)
            return self._direct(*found, environ, start_response)
        finally:
            REQUEST.reset(token)

    def _direct(
        self, rule: Rule, view: View, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        try:
            self._before(environ)
            reply = view(environ)
        except Exception as error:
            with self.request_context(environ):
                response = self.finalize_request(self.handle_user_exception(error))
            return response(environ, start_response)
        headers = reply.wsgi_headers()
        headers += self._after(environ, rule.rule, reply.status)
        start_response(_status_line(reply.status), headers)
        return [reply.body]

    def _hooked(self) -> bool:
        """Whether code other than this package's wants to see requests, contexts or answers."""
        return bool(
            self.before_request_funcs
            or self.after_request_funcs
            or self.teardown_request_funcs
            or self.teardown_appcontext_funcs
            or self.url_value_preprocessors
            or request_started.receivers
            or request_finished.receivers
            or appcontext_pushed.receivers
        )

    def preprocess_request(self) -> Any:
        """Ours comes first: it may refuse the request."""
        self._before(request.environ)
        return super().preprocess_request()

    def process_response(self, response: Response) -> Response:
        """Ours comes last: it counts what is sent."""
        response = super().process_response(response)
        rule = request.url_rule
        for name, value in self._after(request.environ, None if rule is None else rule.rule, response.status_code):
            response.headers.add(name, value)
        return response

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match exact paths at once. For the rest an adapter that knows no host: none is part of any URL here."""
        if request is None:
            return None
        environ = request.environ
        found = self._exact.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if found is not None:
            request.url_rule, request.view_args = found[0], {}
            return None  # nothing left to match
        return MapAdapter(
            self.url_map, "localhost", request.root_path, "", request.scheme, request.path, request.method, None
        )

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: ``async def`` steps of events run on the bridge, views are never coroutines."""
        return func


class Answer(Response):
    """An answer whose body is one piece; handed to the server as such, which need not iterate and close it."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer. HEAD and what wants to be told of the end take the long way."""
        if environ["REQUEST_METHOD"] == "HEAD" or self._on_close:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        body: list[bytes] = self.response  # type: ignore[assignment]  # what set_data() leaves there
        return body
