"""A call of a task that has not been sent: the task, its arguments and how to send it. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from taskstream.app.sending import PLAIN, Callee, SendOptions


class Signature(msgspec.Struct, frozen=True):
    """What ``delay(*args, **kwargs)`` would send; made by ``task.s()``. Arguments are checked when it is sent."""

    task: Callee
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: SendOptions = PLAIN

    def set(
        self,
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        queue: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Signature:
        """The same call with options of ``apply_async``; what is None here stays as it was."""
        given = {"task_id": task_id, "idempotency_key": idempotency_key, "queue": queue, "headers": headers}
        changed = {name: value for name, value in given.items() if value is not None}
        return Signature(self.task, self.args, self.kwargs, msgspec.structs.replace(self.options, **changed))
