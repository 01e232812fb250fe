"""The handle of one sent message: its state and its outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from taskstream.app.outcomes import Outcomes
from taskstream.errors import ResultTimeout, TaskFailed, TaskRevoked, TaskTimeout, TimeLimitExceeded, ValidationError
from taskstream.results.base import FINAL_STATES, REVOKED, SUCCESS, Failure, Outcome

if TYPE_CHECKING:
    from taskstream.app.group_result import GroupResult

PENDING = "PENDING"

R_co = TypeVar("R_co", covariant=True)


class ResultSource(Protocol):
    """What a handle needs of its app."""

    @property
    def outcomes(self) -> Outcomes:
        """Where outcomes are found. Raises ResultUnavailable if the app keeps none."""

    def queues(self) -> Sequence[str]:
        """Every queue the app's tasks go to."""

    def value_of(self, outcome: Outcome) -> Any:
        """The value of a success, as its task's return annotation says."""


class AsyncResult(Generic[R_co]):
    """Handle of one message. Cheap; holds no connection of its own.

    ``id`` is the message's id. ``app.AsyncResult(id)`` gives a handle again, in any process. ``parent`` is the handle
    of what comes before it, where a workflow was started here.
    """

    __slots__ = ("_queue", "id", "parent", "source")

    def __init__(self, message_id: str, source: ResultSource, queue: str | None = None) -> None:
        """``queue``: where the message went; None if that is not known."""
        self.id = message_id
        self.source = source
        self.parent: AsyncResult[Any] | GroupResult | None = None
        self._queue = queue

    @property
    def queues(self) -> Sequence[str]:
        """The queues that the message may be of."""
        return self.source.queues() if self._queue is None else (self._queue,)

    @property
    def state(self) -> str:
        """PENDING, RETRY, SUCCESS, FAILURE or REVOKED. An id without an outcome is PENDING, even an unknown one.

        Raises ResultUnavailable if no results are kept or they cannot be read.
        """
        outcome = self.source.outcomes.read(self.id)
        return PENDING if outcome is None else outcome.state

    def ready(self) -> bool:
        """Whether there is a final outcome. Raises ResultUnavailable as ``state`` does."""
        return self.state in FINAL_STATES

    def get(self, timeout: float | None = None) -> R_co:
        """Wait for the outcome and return the task's value.

        ``timeout`` in seconds; None waits for ever. A value comes back as the task's return annotation says
        where the app knows the task, else as plain JSON.

        Raises TaskFailed if the task failed, TaskTimeout if it took longer than its time limit, TaskRevoked if
        it was revoked; ResultTimeout if there is no outcome in time (the task goes on); ResultUnavailable if
        no results are kept, or not where this process can read them; ValidationError for a ``timeout`` that is none.
        """
        check_timeout(timeout)
        outcome = self.source.outcomes.wait(self.id, self.queues, timeout)
        if outcome is None:
            raise ResultTimeout(
                f"no outcome of message {self.id} within {timeout} s; it goes on, or there never was such a message"
            )
        value: R_co = value_or_failure(self.source, outcome)
        return value

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def check_timeout(timeout: object) -> None:
    """Raise ValidationError for a ``timeout`` of ``get`` that is none."""
    if timeout is not None and (not isinstance(timeout, (int, float)) or math.isnan(timeout)):
        raise ValidationError(f"get: timeout={timeout!r:.200} is no number of seconds")


def value_or_failure(source: ResultSource, outcome: Outcome) -> Any:
    """The value of a final outcome; raises the failure if it is one."""
    if outcome.state == SUCCESS:
        return source.value_of(outcome)
    failure = outcome.error or Failure(type="", message=f"{outcome.handler} ended as {outcome.state}")
    kind = TaskFailed
    if outcome.state == REVOKED:
        kind = TaskRevoked
    elif failure.type == TimeLimitExceeded.__name__:
        kind = TaskTimeout
    raise kind(failure.message, type_name=failure.type, traceback_text=failure.traceback)
