"""Which messages of a group are revoked: recorded once and for all workers, read by each.

What a worker does about it is in taskstream_worker.revoked.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskstream import keys
from taskstream.broker.group import Call
from taskstream.broker.publisher import Publisher
from taskstream.broker.script import Script, whole

REMEMBER_S = 24 * 3600.0
"""How long a revoked id is remembered, from then or from when its message is due, if that is known."""

PIECE = 1_000
READ_PIECE = 10_000

_REVOKE = Script("revoke")


def revoke(broker: Publisher, stream: str, group: str, ids: Sequence[str], terminate: bool) -> int:
    """Have no message of ``ids`` run in ``group`` any more, with ``terminate`` nor go on running.

    Returns how often something was revoked there. Raises BrokerUnavailable; doing it again is safe.
    """
    number = 0
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        # A message that is scheduled has a state that outlives its time by a day.
        left = broker.calls([("PTTL", keys.state(one)) for one in piece])
        words = [word for one, ms in zip(piece, left, strict=True) for word in (_remembered_ms(ms), one)]
        names = [keys.revoked(stream, group), keys.control(stream, group)]
        number = int(_REVOKE.run(broker.call, names, [int(terminate), *words]))
    return number


def revokes(call: Call, stream: str, group: str) -> int:
    """How often something was revoked in ``group``: what ``revoked`` reads is at least as new."""
    return whole(call("HGET", keys.control(stream, group), "revokes"))


def revoked(call: Call, stream: str, group: str) -> dict[str, bool]:
    """Every id that is revoked in ``group``, and whether it is not to go on running either."""
    found: dict[str, bool] = {}
    name, start = keys.revoked(stream, group), 0
    while True:
        # From the end: what is forgotten meanwhile is at the beginning and moves nothing.
        flat = call("ZREVRANGE", name, start, start + READ_PIECE - 1, "WITHSCORES")
        found.update(
            (str(one, "utf-8"), float(score) % 1 != 0) for one, score in zip(flat[::2], flat[1::2], strict=True)
        )
        if len(flat) < 2 * READ_PIECE:
            return found
        start += READ_PIECE


def _remembered_ms(left_ms: int) -> int:
    return max(int(REMEMBER_S * 1000), int(left_ms))
