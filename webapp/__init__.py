"""The Flask app: events, tasks, control and state over HTTP. Imported as ``taskstream_webapp``.

``flask --app taskstream_webapp run`` finds ``create_app`` here; the production server is in ``server``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the parent of the web processes needs none of it, and prometheus_client, which comes
    # with it, must not be imported before the server has said where the processes share their counts.
    if name == "create_app":
        from .app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
