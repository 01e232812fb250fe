"""Who may ask: the bearer token, the loopback rule, and requests that other sites make a browser send.

It decides before anything is routed, so that a stranger does not learn which paths exist.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from typing import Any

from .errors import Problem
from .settings import WebSettings, is_loopback

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What needs no token: probes of an orchestrator have none."""


@lru_cache(maxsize=256)
def _loopback_header(value: str) -> bool:
    """Whether a Host header names this machine. Two Host headers arrive joined by a comma and never do."""
    if value.startswith("["):
        host, _, rest = value.partition("]")
        host, port = host[1:], rest.removeprefix(":")
        if rest and not rest.startswith(":"):
            return False
    else:
        host, _, port = value.partition(":")
    return (not port or (port.isascii() and port.isdigit())) and is_loopback(host)


def check_access(settings: WebSettings, environ: dict[str, Any]) -> None:
    """Raises Problem 401 without the right token, 403 for a Host that is not loopback where no token is set.

    The Host is checked against DNS rebinding: a page on the web whose name now resolves to 127.0.0.1 makes the
    browser send that page's name.
    """
    token = settings.token
    if token is None:
        if not settings.insecure and not _loopback_header(environ.get("HTTP_HOST", "")):
            raise Problem(
                403, "without an authentication token only requests to localhost are answered (see the Host header)"
            )
        return
    if environ["PATH_INFO"] in OPEN_PATHS:
        return
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    if scheme.lower() != "bearer" or not right:
        challenge = 'Bearer realm="taskstream"' + (', error="invalid_token"' if scheme else "")
        raise Problem(401, "a valid token is needed: Authorization: Bearer …", headers={"WWW-Authenticate": challenge})


def refuse_cross_site(environ: dict[str, Any]) -> None:
    """Raises Problem 403 if another site made a browser send this request. For every route that changes state.

    Browsers say where a request comes from: ``Sec-Fetch-Site``, or ``Origin`` with what is not a GET (Fetch
    standard). Over plain HTTP to another machine a GET carries neither, so one that comes from a browser
    without them is refused too. What is no browser sends none of them and cannot be made to by a web page.
    """
    if (
        not refuse_foreign(environ)
        and environ["REQUEST_METHOD"] in ("GET", "HEAD")
        and environ.get("HTTP_USER_AGENT", "").startswith("Mozilla/")
    ):
        raise Problem(403, "this browser does not say which site it asks for: use POST")


def refuse_foreign(environ: dict[str, Any]) -> bool:
    """Raises Problem 403 for a request that says it comes from another site; returns whether it says where from.

    Enough for what changes nothing and yet must not be had by everybody, such as a thread for as long as one likes:
    the ways in which a page can ask another site for that always say so.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        if site not in ("same-origin", "none") or "prefetch" in environ.get("HTTP_SEC_PURPOSE", ""):
            raise Problem(403, "another site may not make a browser change anything here")
        return True
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return False
    if origin.partition("://")[2].lower() != environ.get("HTTP_HOST", "").lower():
        raise Problem(403, "requests from another origin may not change anything here")
    return True
