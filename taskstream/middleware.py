"""Hooks around the sending and the running of messages, and what is built on them.

``Middleware`` is the one extension point: a class of methods that do nothing, of which a subclass overrides those it
wants. Nothing here sends a message or talks to Redis; who calls a hook says so where it does.
"""

from __future__ import annotations

import inspect
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskstream import logs
from taskstream.durations import LONGEST_S
from taskstream.errors import ConfigError, Retry, TimeLimitExceeded
from taskstream.message import Delivery, Message
from taskstream.retry import backoff_delay

if TYPE_CHECKING:
    from taskstream.handler import Handler

NEVER = math.inf
"""What ``retry_delay`` returns for a message that is not to be tried again."""


class Run:
    """One run of one message, as hooks see it.

    ``delivery`` is the message and where it was read; ``handler`` has its ``name`` and ``settings``. ``notes`` is
    for hooks: what ``before_run`` puts there, ``after_run`` and the others of the same run find. ``ties``: what ends
    with the message's end (see docs/delivery.md); the worker's own.
    """

    __slots__ = ("delivery", "handler", "notes", "ties")

    def __init__(self, delivery: Delivery, handler: Handler) -> None:
        self.delivery = delivery
        self.handler = handler
        self.notes: dict[str, Any] = {}
        self.ties: tuple[Any, ...] = ()


class Middleware:
    """Hooks of an app: ``Taskstream(…, middleware=[…])`` takes instances, and calls them in that order.

    Override what you want; a hook that is not overridden costs nothing. All are plain functions and may block as a
    task may. One instance serves all greenlets and threads of a process. A hook that raises is logged and changes
    nothing, but for the errors that its description allows.
    """

    loud = False
    """What ``before_run`` raises is the run's failure, instead of being logged: for hooks that have to be obeyed."""

    def before_enqueue(self, queue: str, message: Message) -> Mapping[str, Any] | None:
        """A call is about to be sent: return headers (names to JSON values) to send along, or None.

        May raise ``Refuse(reason)`` or ValidationError: the caller of ``delay()`` gets it, and nothing was sent. Called
        for what an app sends, not for what a workflow publishes because a step of it is done.
        """

    def after_enqueue(self, queue: str, message: Message) -> None:
        """A call was accepted by Redis, or by the outbox. Not called where the send raised."""

    def before_run(self, run: Run) -> None:
        """A message is about to run. Its time limits begin after this.

        May raise ``Postpone(seconds)``, which puts it back to be read again then, or ``Refuse(reason)``, which ends it
        as REVOKED. Neither counts as an attempt, and no hook below is called.
        """

    def after_run(self, run: Run, value: object, error: BaseException | None) -> None:
        """A run has ended: ``value`` is what it returned, ``error`` what it raised (None: nothing).

        Its end is decided and not committed yet, so it may run once more if the process dies now.
        """

    def retry_delay(self, run: Run, error: BaseException) -> float | None:
        """A run has failed: seconds after which to try again, ``NEVER``, or None to leave it to those further on.

        The last one asked is ``Retries``. Not asked where no retry could help: the message cannot be decoded, or the
        worker stops.
        """

    def on_retry(self, run: Run, error: BaseException, delay: float) -> None:
        """A failed run will be tried again in ``delay`` seconds."""

    def on_failure(self, run: Run, error: BaseException) -> None:
        """A message has failed for good and becomes a dead letter; of one that killed its workers, without a run."""

    def worker_start(self, worker: str) -> None:
        """A worker process has loaded its code and is about to read; ``worker`` is its name."""

    def worker_stop(self, worker: str) -> None:
        """A worker process has finished what it ran and ends. Not called where it is killed."""


class Retries(Middleware):
    """Decides by the settings of the handler whether and when a failed run is tried again. Always there, and last."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform

    def retry_delay(self, run: Run, error: BaseException) -> float | None:
        """Seconds until the next try; NEVER where the settings have none left, or none for such an error."""
        settings = run.handler.settings
        retries = run.delivery.message.attempt - 1
        most = settings.max_retries
        if isinstance(error, Retry):
            if retries >= (most if error.max_retries is None else error.max_retries):
                return NEVER
            if error.due_ms is not None:
                # For who looks and waits; the message is due at that very time by Redis' clock.
                return max(0.0, error.due_ms / 1000 - time.time())
            if error.delay is not None:
                return error.delay
        elif retries >= most or not _retriable(error, settings.retry_for):
            return NEVER
        return backoff_delay(
            retries,
            base=settings.retry_backoff,
            maximum=settings.retry_backoff_max,
            jitter=settings.retry_jitter,
            uniform=self._uniform,
        )


RETRIES = Retries()


def _retriable(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, TimeLimitExceeded) and issubclass(TimeoutError, kinds):
        # Not an Exception, so that handlers cannot swallow it; to the settings it is a TimeoutError.
        return True
    return isinstance(error, kinds)


def checked(where: str, middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """``middleware`` as a tuple.

    Raises ConfigError naming ``where`` for what is no instance of Middleware, and for a hook that is a coroutine: it
    would never run.
    """
    try:
        found = tuple(middleware)
    except TypeError:
        raise ConfigError(f"{where}: middleware={middleware!r:.200} is no list: give [Name(), …]") from None
    for one in found:
        if isinstance(one, type) or not isinstance(one, Middleware):
            hint = "make one: Name()" if isinstance(one, type) else "derive its class from taskstream.Middleware"
            raise ConfigError(f"{where}: middleware={one!r:.200} is no instance of a Middleware: {hint}")
        for hook in [name for name in vars(Middleware) if not name.startswith("_")]:
            if inspect.iscoroutinefunction(getattr(one, hook)):
                raise ConfigError(f"{where}: {type(one).__name__}.{hook} is async def: hooks are plain functions")
    return found


def overriding(middleware: Sequence[Middleware], hook: str) -> list[Middleware]:
    """Those that override ``hook``, in order."""
    return [one for one in middleware if getattr(type(one), hook) is not getattr(Middleware, hook)]


def delay_of(middleware: Sequence[Middleware], run: Run, error: BaseException) -> float | None:
    """Seconds until the next try, as the first that has an opinion says; None: it is not tried again."""
    for one in overriding(middleware, "retry_delay"):
        try:
            delay = one.retry_delay(run, error)
            if delay is not None and not (0 <= delay <= LONGEST_S or delay == NEVER):
                raise ValueError(
                    f"retry_delay returned {delay!r}: give seconds from 0 on (at most 100 years), NEVER or None"
                )
        except Exception as broken:
            say(one, "retry_delay", broken)
            continue
        if delay is not None:
            return delay if delay < NEVER else None
    return None


def tell(middleware: Sequence[Middleware], hook: str, *arguments: object) -> None:
    """Call ``hook`` of each; what one raises is logged."""
    for one in middleware:
        try:
            getattr(one, hook)(*arguments)
        except Exception as error:
            say(one, hook, error)


def say(one: Middleware, hook: str, error: BaseException) -> None:
    """A hook raised what it may not: a line in the log is all that comes of it."""
    engine_log().error("Hook failed", {"hook": f"{type(one).__name__}.{hook}"}, exc=error)


def engine_log() -> logs.FieldLogger:
    """Where hooks are told of."""
    return logs.engine_logger("middleware")
