"""Flask without what this app never uses, at the places Flask offers for it. Halves Flask's share of a POST.

Nothing here changes what a route or a hook sees; see benchmarks/RESULTS.md for what each part saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter, Rule

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class NoSessions(SessionInterface):
    """There are no cookies here."""

    _nothing = NullSession()

    def open_session(self, app: Flask, request: Any) -> NullSession:
        """The same empty session for every request; it refuses writes."""
        return self._nothing

    def is_null_session(self, obj: object) -> bool:
        """Always: nothing is ever saved."""
        return True


class LeanFlask(Flask):
    """An app whose views and hooks are plain functions and which never redirects."""

    def __init__(self, import_name: str) -> None:
        super().__init__(import_name)
        self.session_interface = NoSessions()
        self.url_map.merge_slashes = False  # a redirected POST would have to be sent twice
        self._exact: dict[tuple[str, str], Rule] = {}

    def add_exact_rule(self, path: str, endpoint: str, view: Callable[[], Response], method: str) -> None:
        """``add_url_rule`` for a path without variables whose view builds no URLs; found by one look-up."""
        self.add_url_rule(path, endpoint=endpoint, view_func=view, methods=[method])
        self._exact[(method, path)] = next(self.url_map.iter_rules(endpoint))

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match exact paths at once. For the rest an adapter that knows no host: none is part of any URL here."""
        if request is None:
            return None
        environ = request.environ
        rule = self._exact.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if rule is not None:
            request.url_rule, request.view_args = rule, {}
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
