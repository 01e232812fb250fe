"""What every HTML page carries: a strict Content-Security-Policy and no caching."""

from __future__ import annotations

from flask import Response

STRICT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(text: str, *, status: int = 200, policy: str = STRICT_POLICY) -> Response:
    """An HTML answer that may load nothing but what ``policy`` allows."""
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    return Response(text, status, headers, content_type="text/html; charset=utf-8")
