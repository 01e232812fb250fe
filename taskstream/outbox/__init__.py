"""Keeps what could not be sent and sends it when Redis is back: in order, once."""

from __future__ import annotations

from taskstream.outbox.outbox import Outbox, outbox_path

__all__ = ["Outbox", "outbox_path"]
