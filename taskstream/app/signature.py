"""A call of a task that has not been sent: the task and its arguments. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from taskstream.message import Message


class Callee(Protocol):
    """What a signature needs of its task."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def queue(self) -> str:
        """The queue its messages go to."""

    def message(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Message:
        """The message of one call, with an id of its own. Raises ValidationError."""


class Signature(msgspec.Struct, frozen=True):
    """What ``delay(*args, **kwargs)`` would send; made by ``task.s()``. Arguments are checked when it is sent."""

    task: Callee
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
