"""Runs coroutines to their end for tests, also where the test itself runs on an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns; on a loop of its own, in a thread of its own if this one runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    ended: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            ended.append((context.run(asyncio.run, coroutine), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, name="taskstream-testing")
    thread.start()
    thread.join()
    value, error = ended[0]
    if error is not None:
        raise error
    return value
