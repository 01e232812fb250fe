"""Outcomes for tests of the result stores and of what reads them."""

from __future__ import annotations

import msgspec

from taskstream.results import SUCCESS, Outcome

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_000


def outcome(
    message_id: str, *, group: str = "g", delivery: int = 1, finished_ms: int = NOW_MS, **more: object
) -> Outcome:
    """An outcome of a made-up task."""
    values: dict[str, object] = {
        "handler": "shop.thumbnail",
        "state": SUCCESS,
        "attempts": 1,
        "sent_ms": finished_ms - 20,
        "started_ms": finished_ms - 10,
        "worker": "host-1",
        "value": msgspec.Raw(b'{"size":64}'),
    }
    return Outcome(id=message_id, group=group, delivery=delivery, finished_ms=finished_ms, **(values | more))
