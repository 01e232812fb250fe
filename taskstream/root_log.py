"""Sends what all other loggers say through Taskstream's handler, in processes that run an application's code.

An application that gave its root logger a handler has decided otherwise, and is left alone. Called after its code was
loaded, and never where it only sends.
"""

from __future__ import annotations

import logging

from taskstream import logs

WORDY = ("asyncio", "azure", "botocore", "elastic_transport", "httpcore", "httpx", "urllib3")
"""Libraries that have an INFO line for every request: at INFO only their warnings are shown."""


def take_over(handler: logs.LineHandler) -> bool:
    """Have ``handler`` write the records of all loggers, at the level of Taskstream's own lines.

    Loggers keep the levels they were given. Returns False, changing nothing, where the application gave the root
    logger a handler. May be called again; the last call holds.
    """
    root = logging.getLogger()
    for old in [found for found in root.handlers if isinstance(found, logs.LineHandler)]:
        root.removeHandler(old)
    if root.handlers:
        return False
    root.addHandler(handler)
    level = logging.getLogger(logs.ROOT).level
    root.setLevel(level)
    for wordy in map(logging.getLogger, WORDY):
        if level == logging.INFO and wordy.level == logging.NOTSET:
            wordy.setLevel(logging.WARNING)
    return True
