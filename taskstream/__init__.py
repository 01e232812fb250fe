"""Taskstream: a task queue and event apps on Redis streams.

Everything an author of tasks needs is exported here. Importing the package loads nothing else (PEP 562): a name is
loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskstream._version import __version__
    from taskstream.app.canvas import chain, chord, group
    from taskstream.app.core import Taskstream
    from taskstream.app.group_result import GroupResult
    from taskstream.app.result import AsyncResult
    from taskstream.app.shared import shared_task
    from taskstream.app.signature import Signature
    from taskstream.app.task import Task
    from taskstream.errors import (
        BrokerUnavailable,
        ConfigError,
        Interrupt,
        InvalidMessage,
        Postpone,
        QueueFull,
        Refuse,
        ResultTimeout,
        ResultUnavailable,
        Retry,
        Revoked,
        Shutdown,
        TaskFailed,
        TaskRevoked,
        TaskstreamError,
        TaskTimeout,
        TimeLimitExceeded,
        ValidationError,
    )
    from taskstream.middleware import Middleware

__all__ = [
    "Taskstream",
    "Task",
    "AsyncResult",
    "Signature",
    "shared_task",
    "Middleware",
    "GroupResult",
    "chain",
    "group",
    "chord",
    "TaskstreamError",
    "BrokerUnavailable",
    "QueueFull",
    "ValidationError",
    "InvalidMessage",
    "ConfigError",
    "TaskFailed",
    "TaskTimeout",
    "TaskRevoked",
    "ResultTimeout",
    "ResultUnavailable",
    "Interrupt",
    "TimeLimitExceeded",
    "Shutdown",
    "Refuse",
    "Postpone",
    "Revoked",
    "Retry",
    "__version__",
]

_ELSEWHERE = {
    "Taskstream": "taskstream.app.core",
    "Task": "taskstream.app.task",
    "AsyncResult": "taskstream.app.result",
    "Signature": "taskstream.app.signature",
    "shared_task": "taskstream.app.shared",
    "Middleware": "taskstream.middleware",
    "GroupResult": "taskstream.app.group_result",
    "chain": "taskstream.app.canvas",
    "group": "taskstream.app.canvas",
    "chord": "taskstream.app.canvas",
    "__version__": "taskstream._version",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_ELSEWHERE.get(name, "taskstream.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
