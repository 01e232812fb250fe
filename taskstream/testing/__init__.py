"""Helpers for the tests of an application: no server, no worker processes, no waiting (docs/testing.md).

Nothing that runs in production imports this package. Importing it lets ``memory://`` be a broker's URL.
"""

from __future__ import annotations

from taskstream.testing import memory
from taskstream.testing.eager import eager
from taskstream.testing.events import Executed, execute_event
from taskstream.testing.store import MemoryStore
from taskstream.testing.worker import StillBusy, Worker, in_memory

__all__ = ["Worker", "in_memory", "eager", "execute_event", "Executed", "MemoryStore", "StillBusy"]

memory.enable()
