"""The outbox of an app: sends when Redis takes messages, keeps them in a file when it does not.

Returns when a message is either in Redis or on the disk. What it keeps for a stream goes before anything new.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from taskstream import keys
from taskstream.broker import Broker, Envelope
from taskstream.broker.publisher import Sent
from taskstream.errors import BrokerUnavailable, ConfigError
from taskstream.logs import engine_logger
from taskstream.outbox.flusher import Flusher, State, now_ms
from taskstream.outbox.rows import OutboxProblem, Rows, Waiting

EXIT_S = 2.0
"""How long the end of a process waits for what the outbox can still send."""


class Outbox:
    """See the package. ``path`` is the file; ``broker()`` gives the broker of this process. Thread-safe."""

    def __init__(self, path: Path, broker: Callable[[], Broker]) -> None:
        self.path = path
        self._broker = broker
        self._rows = Rows(path)
        self._flusher = Flusher(self._rows, broker)
        self._log = engine_logger("outbox")
        _outboxes.add(self)

    def start_afresh(self) -> None:
        """In a forked child: files and thread of the parent are its own."""
        self._rows.start_afresh()
        self._flusher.start_afresh()

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        """Send in order, or keep; say what became of each.

        An id means: in Redis, or on the disk. QueueFull and ConfigError are as without an outbox; BrokerUnavailable
        where neither Redis nor the file took it.
        """
        envelopes = [_with_own_id(envelope) for envelope in envelopes]
        self._flusher.start()  # also for what a process before this one has left
        ids: list[str | None] = []
        error: BrokerUnavailable | None = None
        try:
            if not self._rows.waits({envelope.stream for envelope in envelopes}):
                ids, found = self._broker().try_many(envelopes, in_order=True)
                if not isinstance(found, BrokerUnavailable):
                    return Sent(ids, found)
                error = found
            sent = [one for one in ids if one is not None]
            rest = envelopes[len(sent) :]
            kept = self._rows.add(rest, now_ms(), tried=error is not None and error.maybe_sent)
        except OutboxProblem as problem:
            text = f"{error}; and {problem}" if error is not None else str(problem)
            maybe = error is not None and error.maybe_sent
            return Sent(ids or [None] * len(envelopes), BrokerUnavailable(text, maybe_sent=maybe))
        if error is not None:
            self._log.warning("Broker takes no messages, the outbox keeps them", {"outbox": self.path, "error": error})
        self._flusher.wake()
        return Sent([*sent, *kept])

    def waiting(self) -> list[Waiting]:
        """What waits, by stream. Raises OutboxProblem."""
        return self._rows.overview()

    def flush(self) -> State:
        """Send what waits, in this thread, once. Raises OutboxProblem."""
        return self._flusher.flush()[0]

    @property
    def trouble(self) -> str:
        """Why something still waits, as far as this process has seen it; empty if nothing does."""
        return self._flusher.trouble

    def close(self) -> None:
        """Send what can be sent within 2 s; the rest stays for the next process."""
        self._flusher.stop(EXIT_S)
        self._rows.close()


def outbox_path(url: str, base: Path, app: str) -> Path:
    """The file of an app's outbox in the folder that ``file://FOLDER`` names, relative to ``base``.

    Raises ConfigError.
    """
    scheme, separator, folder = url.partition("://")
    if scheme != "file" or not separator or not folder or "\0" in folder:
        raise ConfigError(f"outbox URL {url!r} cannot be used: use file://FOLDER, on a local disk of this host")
    # One file per app, because another app may have another broker.
    return (base / folder).absolute() / f"{app}.sqlite3"


def _with_own_id(envelope: Envelope) -> Envelope:
    """Published under its own id, so that sending it again after a lost reply changes nothing."""
    own = keys.unique_id(envelope.message.id)
    return envelope if own in envelope.uniques else envelope._replace(uniques=(own, *envelope.uniques))


_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for outbox in list(_outboxes):
        outbox.close()
