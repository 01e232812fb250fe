"""Every error Taskstream raises, in one small hierarchy. It never decides what happens after an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class TaskstreamError(Exception):
    """Base class of the errors a caller may want to catch."""


class ConfigError(TaskstreamError):
    """Configuration or usage that cannot work; its text is one line and says the remedy (exit status 2)."""


class WrongKind(ConfigError):
    """A key of Taskstream's holds another kind of value: somebody else writes to it, or wrote to it by hand."""


class BrokerUnavailable(TaskstreamError):
    """Redis could not be reached, refused, or did not answer in time.

    ``maybe_sent`` is True where the command had left this process and only its reply is missing, so the
    message may or may not be in the stream, and repeating the call may do the work twice. ``sent``: of a call that
    sends many, the handles of those that are in for certain; ``maybe_sent`` is True then too.
    """

    def __init__(self, message: str, *, maybe_sent: bool = False, sent: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent
        self.sent = list(sent)


class QueueFull(TaskstreamError):
    """The stream has as many entries as its ``max_length`` allows; the message was not sent.

    ``stream`` is its name, ``length`` how many entries it has, ``limit`` its ``max_length``. ``sent``: of a call that
    sends many, the handles of those before the one that found no room; none of the others was sent.
    """

    def __init__(
        self, message: str, *, stream: str = "", length: int = 0, limit: int = 0, sent: Sequence[Any] = ()
    ) -> None:
        super().__init__(message)
        self.stream = stream
        self.length = length
        self.limit = limit
        self.sent = list(sent)


class ValidationError(TaskstreamError):
    """Arguments or a payload that do not fit their declared types; nothing was sent.

    ``errors`` maps a field's name to what is wrong with it, nested for nested objects.
    """

    def __init__(self, message: str, errors: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.errors: dict[str, object] = dict(errors or {})


class InvalidMessage(TaskstreamError):
    """A stream entry that is no Taskstream message, or a payload no handler here can decode."""


class TaskFailed(TaskstreamError):
    """What ``AsyncResult.get()`` raises for a message that failed.

    ``type_name`` is the name of the original exception's class, ``message`` its text and
    ``traceback_text`` the formatted traceback as the worker saw it.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if type_name else message)
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text


class TaskTimeout(TaskFailed):
    """The task ran longer than its ``timeout`` or ``hard_timeout``."""


class TaskRevoked(TaskFailed):
    """The task was revoked before it finished."""


class ResultTimeout(TaskstreamError, TimeoutError):
    """``get(timeout=…)`` waited that long and there is no outcome yet; the task goes on."""


class ResultUnavailable(TaskstreamError):
    """The result store of the worker cannot be reached from here, or no results are kept."""


class Interrupt(BaseException):
    """Thrown into a running handler from outside.

    Not an Exception, so that a handler's ``except Exception`` cannot swallow it.
    """


class TimeLimitExceeded(Interrupt):
    """The handler ran longer than its ``timeout``, or than its ``hard_timeout``, which no handler sees."""


class Shutdown(Interrupt):
    """The worker stops now and this handler did not finish within the grace time."""


class Refuse(TaskstreamError):
    """Raised by a hook of a Middleware: this call is not sent, or this message is not run and ends as REVOKED."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Postpone(TaskstreamError):
    """Raised by ``Middleware.before_run``: put the message back and read it again in ``seconds`` (0 to 100 years)."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds <= 100 * 366 * 86_400:
            raise ValueError(f"Postpone({seconds!r}): give seconds from 0 on, at most 100 years")
        super().__init__(f"put off for {seconds:g} s")
        self.seconds = seconds


class WorkerDied(TaskstreamError):
    """What ``Middleware.on_failure`` is told of a message under which so many worker processes died that it is over."""


class Revoked(Interrupt):
    """The message was revoked with ``terminate=True`` while its handler ran. A handler may raise it, too."""


class Retry(BaseException):
    """What ``self.retry()`` raises: the run ends here, and the message is to be run once more.

    Not an Exception, so that an ``except Exception`` around the call cannot swallow it. ``cause`` is the failure
    behind it, if any: it is what the message fails of when no try is left. ``delay`` (s) or ``due_ms`` (ms since the
    epoch) says when, neither: after the handler's usual backoff. ``max_retries`` goes before the handler's own.
    """

    def __init__(
        self,
        message: str = "another try was asked for",
        *,
        cause: BaseException | None = None,
        delay: float | None = None,
        due_ms: int | None = None,
        max_retries: int | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.delay = delay
        self.due_ms = due_ms
        self.max_retries = max_retries


class MaxRetriesExceeded(TaskstreamError):
    """A message asked for more tries than it has (``self.retry()`` without an exception to fail of)."""


def one_line(errors: Mapping[str, object] | Sequence[object] | object, prefix: str = "") -> str:
    """Flatten nested validation errors into ``field.sub: reason; other: reason``."""
    if isinstance(errors, Mapping):
        parts = [one_line(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in errors.items()]
        # marshmallow's texts are sentences, ours are not: only the last may end like one.
        return "; ".join([*(part.removesuffix(".") for part in parts[:-1]), *parts[-1:]])
    if isinstance(errors, Sequence) and not isinstance(errors, str):
        text = " ".join(str(item) for item in errors)
    else:
        text = str(errors)
    return f"{prefix}: {text}" if prefix else text
