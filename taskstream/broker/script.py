"""Runs the Lua scripts by their hash, sending the text only to a server that does not have it yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import redis

from taskstream import keys, scripts

Calls = Callable[[list[tuple[Any, ...]]], object]


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

    def run_many(self, calls: Calls, runs: Iterable[tuple[Sequence[str], Sequence[Any]]]) -> None:
        """Run it for each ``(keys, args)`` in one round trip through ``calls(commands)``, which raises the first error.

        If some had run before the server lost the script, they run again: only for scripts that may be repeated.
        """
        commands = [self.command(keys, args) for keys, args in runs]
        try:
            calls(commands)
        except redis.exceptions.NoScriptError:
            calls([("SCRIPT", "LOAD", self.source)])
            calls(commands)


def whole(reply: bytes | None) -> int:
    """A number that a script counts; 0 where there is none, or something that was not written by us."""
    return int(reply) if reply and reply.isdigit() else 0


@lru_cache
def wake_call(stream: str, group: str) -> str:
    """The argument of scripts with which they tell all workers that something waits in the group's ranked set.

    A channel, and a request to the workers as ``taskstream.control`` sends them, which nobody answers.
    """
    return _hint("wake", stream, group)


@lru_cache
def soon_call(stream: str, group: str) -> str:
    """The same for what is delayed by less than a worker may take to look again by itself."""
    return _hint("soon", stream, group)


def _hint(command: str, stream: str, group: str) -> str:
    request = {"id": "", "command": command, "args": {"stream": stream, "group": group}}
    return f"{keys.CONTROL_CHANNEL} {json.dumps(request)}"
