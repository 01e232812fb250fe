"""Runs the Lua scripts by their hash, sending the text only to a server that does not have it yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import redis

from taskstream import scripts


class Script:
    """One script of taskstream/scripts, ready to be sent."""

    def __init__(self, name: str) -> None:
        self.source = scripts.source(name)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        """The EVALSHA command."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def run(self, call: Callable[..., Any], keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it through ``call(*command)``. A NOSCRIPT answer means nothing ran, so the text may follow."""
        try:
            return call(*self.command(keys, args))
        except redis.exceptions.NoScriptError:
            return call("EVAL", self.source, len(keys), *keys, *args)
