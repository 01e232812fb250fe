"""Where the web app's settings come from: environment, server configuration, command line."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskstream.config import DEFAULT_DOCS_PATH
from taskstream.embedded import running_broker_url
from taskstream.errors import ConfigError

MAX_BODY_BYTES = 1024 * 1024

_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What one web process goes by.

    ``token`` is what clients must send, None for none; ``insecure`` answers any Host although there is none.
    ``docs_path`` is where the interactive documents are, None for nowhere.
    """

    token: str | None = None
    insecure: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    docs_path: str | None = DEFAULT_DOCS_PATH


def token_from(environ: Mapping[str, str]) -> str | None:
    """The token in ``TASKSTREAM_AUTH_TOKEN``; empty counts as none.

    Raises ConfigError for one that cannot stand in a header.
    """
    token = environ.get("TASKSTREAM_AUTH_TOKEN", "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise ConfigError("TASKSTREAM_AUTH_TOKEN may only hold visible ASCII characters, no spaces")
    return token or None


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address, without a port) can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def choose_broker(explicit: str | None, configured: str | None, folder: Path) -> str:
    """The broker's URL: ``explicit``, else the environment, else a running ``taskstream dev`` of ``folder``,
    else ``configured``.

    Raises ConfigError if none of them names one.
    """
    found = explicit or os.environ.get("TASKSTREAM_BROKER") or running_broker_url(folder) or configured
    if not found:
        raise ConfigError(
            "no broker is known: pass --broker redis://…, set TASKSTREAM_BROKER, "
            "or name it in server.json under streams.connection_str"
        )
    return found
