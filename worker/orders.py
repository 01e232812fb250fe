"""What goes over the two pipes between a worker process and its supervisor: orders in, reports out, a line each.

The first line in is the process' options. Orders: ``stop`` (cleanly, within the grace time), ``drain`` (cleanly,
however long it takes: another process has taken the place) and ``now`` (give back and end). The end of the pipe
means the supervisor died, which is an order to stop cleanly. Reports, as JSON: consumer names, readiness, a
configuration that cannot work, the wish to be replaced. The process' ends of the pipes are in ``pipes.py``.
"""

from __future__ import annotations

import signal

import msgspec

STOP = b"stop\n"
DRAIN = b"drain\n"
NOW = b"now\n"

IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Only the supervisor listens to signals; Ctrl-C and systemd reach the whole group."""


class Report(msgspec.Struct, omit_defaults=True):
    """What a worker process tells its supervisor.

    ``kind``: ``ready``, with the ``url`` of its broker · ``config_error`` with ``text`` · ``worn`` with the reason as
    ``text`` · ``begin`` and ``end`` of consumer ``consumer`` of ``stream`` and ``group``, the process' membership
    ``number``, on broker ``url`` · ``forked``, with its process id as ``number``.
    """

    kind: str
    text: str = ""
    number: int = 0
    stream: str = ""
    group: str = ""
    consumer: str = ""
    url: str = ""
