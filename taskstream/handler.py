"""What a worker runs: handlers, their settings, and the subscriptions that feed them.

A task and a STREAM event are both turned into a Handler before the worker sees them; from here on nothing
asks which of the two it is. Pure data: no Redis, no gevent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from taskstream.limits import Limit
from taskstream.message import Delivery, Message, encode_json
from taskstream.middleware import RETRIES, Middleware

QUEUE_GROUP = "taskstream"
"""The consumer group of every task queue."""

DEAD_RETENTION_S = 30 * 86_400.0
"""How long a dead letter is kept unless its app says otherwise."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a handler's messages are treated. Times in seconds.

    After ``timeout`` a run is interrupted; after ``hard_timeout`` its process is killed and replaced. Either is a
    failed run.
    ``retry_for`` lists the exceptions after which a message is tried again, ``max_retries`` times at most;
    ``max_deliveries`` is how many worker processes may die under a message before it is a dead letter.
    """

    timeout: float | None = None
    hard_timeout: float | None = None
    max_retries: int = 3
    max_deliveries: int = 3
    retry_backoff: float = 1.0
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    ignore_result: bool = False


@dataclass(frozen=True, slots=True)
class Successor:
    """A message that a finished one publishes; its id is known before, so a repeated run publishes it once.

    It waits while the stream has ``max_length`` entries (None: never). ``failed``: it says only that what it was to
    follow has failed, so it may be there beside the same message that is to be run. The rest is as in an Envelope.
    """

    stream: str
    message: Message
    max_length: int | None = None
    failed: bool = False
    delay_ms: int | None = None
    due_ms: int | None = None
    ordering_key: str | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A chord that begins: ``then``, as JSON of taskstream.continuation, follows when ``total`` values are there.

    ``id`` is the callback's, ``queue`` where it goes; ``headers`` (JSON) are handed on to it.
    """

    queue: str
    id: str
    total: int
    then: bytes
    headers: bytes


@dataclass(frozen=True, slots=True)
class Joining:
    """The ``value`` (JSON) of a chord's member number ``index``; None if it ``failed`` (JSON).

    ``parent`` is the id of its message, ``root`` of the one that all began with.
    """

    queue: str
    id: str
    index: int
    value: bytes | None
    failed: bytes | None
    parent: str
    root: str


Follower = Successor | Opening | Joining
"""What is to be done before a finished message is acknowledged. Each may be repeated to no effect."""


def no_successors(delivery: Delivery, value: object) -> tuple[Follower, ...]:
    """What most handlers publish after they ran."""
    return ()


@dataclass(frozen=True, slots=True)
class Handler:
    """One function to run for a message.

    ``run(delivery)`` returns the value or raises; it is called in a greenlet and may block cooperatively.
    ``dump(value)`` makes JSON of the value for the result store. ``start()`` runs once per process before
    the first message. ``successors(delivery, value)`` names what to publish before the message is
    acknowledged. ``name`` is what logs, results and metrics call it; ``app`` and ``version`` go into log lines.
    ``log_done_at`` is the level (``logging.INFO`` …) of its START and DONE lines. ``middleware`` are the hooks of its
    runs, in order; ``limit`` how often and how many at once they may be over all workers.
    """

    name: str
    run: Callable[[Delivery], object]
    app: str
    version: str
    log_done_at: int
    settings: Settings = field(default_factory=Settings)
    dump: Callable[[object], bytes] = encode_json
    start: Callable[[], None] | None = None
    successors: Callable[[Delivery, object], tuple[Follower, ...]] = no_successors
    middleware: tuple[Middleware, ...] = (RETRIES,)
    limit: Limit | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """One consumer group of one stream, and who handles its messages.

    ``label`` is what people and the control channel call it: the event's ``app.version.event`` or the
    queue's name. ``handlers`` goes by the message's name; ``default`` handles any name (events).
    ``concurrency`` and ``batch_size`` bound one worker process, ``throttle`` (s) is the least time between
    two batches, ``delay_auto_start`` (s) holds consumption back after the worker started. ``auto_start``
    is whether it consumes while nobody chose otherwise through the control channel. ``dead_retention`` (s) is
    how long its dead letters are kept; ``retention`` (s) how long what is done stays in the stream, 0 not at all.
    """

    label: str
    stream: str
    group: str
    handlers: Mapping[str, Handler]
    default: Handler | None = None
    concurrency: int | None = None
    batch_size: int | None = None
    throttle: float = 0.0
    delay_auto_start: float = 0.0
    auto_start: bool = True
    dead_retention: float = DEAD_RETENTION_S
    retention: float = 0.0

    @property
    def all_handlers(self) -> tuple[Handler, ...]:
        """Every handler that may get a message."""
        return (*self.handlers.values(), *(() if self.default is None else (self.default,)))

    def handler_for(self, name: str) -> Handler | None:
        """The handler of a message called ``name``, None if there is none in this release of the code."""
        return self.handlers.get(name, self.default)
