"""URLs as people may see them. Apart from what opens them, for who only tells of one."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_PASSWORD_OPTION = re.compile(r"(password=)[^&]*", re.IGNORECASE)
_HIDDEN = r"\1***"


def display_url(url: str) -> str:
    """The URL as it may be shown and logged: without its password, else as it was written."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no URL)"
    shown = url
    if "@" in parts.netloc:
        credentials, _, hosts = parts.netloc.rpartition("@")
        user = credentials.partition(":")[0]
        shown = shown.replace(parts.netloc, f"{user + ':' if user else ''}***@{hosts}", 1)
    if parts.query:
        shown = shown.replace(f"?{parts.query}", f"?{_PASSWORD_OPTION.sub(_HIDDEN, parts.query)}", 1)
    return shown
