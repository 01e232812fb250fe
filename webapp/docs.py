"""The OpenAPI document, and the interactive page for it: Swagger UI out of a PyPI package, no network needed."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
from flask import Flask, Response, render_template, send_file

from taskstream.errors import ConfigError

from .errors import Problem
from .pages import page

OPENAPI_PATH = "/api/openapi.json"

# Swagger UI sets style attributes and shows its icons as data: images.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
ASSET_MAX_AGE_S = 3600


def _dist() -> Path:
    """The folder of Swagger UI's files, found without importing the package's Flask code."""
    return Path(str(resources.files("flask_swagger_ui"))) / "dist"


def register(app: Flask, document: dict[str, Any], docs_path: str | None) -> None:
    """Serve ``document``, and the page at ``docs_path`` (None: no page).

    Raises ConfigError for a path that something else is served at.
    """
    body = msgspec.json.encode(document)

    def openapi() -> Response:
        return Response(body, content_type="application/json")

    app.add_url_rule(OPENAPI_PATH, view_func=openapi)
    if docs_path is None:
        return
    docs_path = docs_path.rstrip("/")
    taken = {rule.rule for rule in app.url_map.iter_rules()}
    if not docs_path.startswith("/") or docs_path in taken or any(sign in docs_path for sign in "<>?#"):
        raise ConfigError(f"docs_path {docs_path!r} cannot be used: give a path of its own such as /api/docs")
    folder = _dist()
    title = document.get("info", {}).get("title", "Taskstream")

    def docs() -> Response:
        text = render_template("docs.html", title=title, docs_path=docs_path, openapi_path=OPENAPI_PATH)
        return page(text, policy=DOCS_POLICY)

    def docs_asset(name: str) -> Response:
        if name not in ASSETS:
            raise Problem(404, "nothing is served at this path")
        return send_file(folder / name, mimetype=ASSETS[name], max_age=ASSET_MAX_AGE_S)

    app.add_url_rule(docs_path, view_func=docs)
    app.add_url_rule(f"{docs_path}/<name>", view_func=docs_asset)
