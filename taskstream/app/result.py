"""The handle of one sent message: its state and its outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from taskstream.app.outcomes import Outcomes
from taskstream.app.unfinished import Unfinished
from taskstream.broker.states import PENDING, State
from taskstream.errors import ResultTimeout, TaskFailed, TaskRevoked, TaskTimeout, TimeLimitExceeded, ValidationError
from taskstream.logs import engine_logger
from taskstream.results.base import FAILURE, FINAL_STATES, REVOKED, SUCCESS, Failure, Outcome
from taskstream.running import RUNNING

if TYPE_CHECKING:
    from taskstream.app.group_result import GroupResult

R_co = TypeVar("R_co", covariant=True)

_log = engine_logger("app")
_warned: set[str] = set()
"""Tasks that were told not to wait for results."""


class ResultSource(Protocol):
    """What a handle needs of its app."""

    @property
    def outcomes(self) -> Outcomes:
        """Where outcomes are found. Raises ResultUnavailable if the app keeps none."""

    @property
    def unfinished(self) -> Unfinished:
        """What is known of messages without an outcome."""

    def queues(self) -> Sequence[str]:
        """Every queue the app's tasks go to."""

    def value_of(self, outcome: Outcome) -> Any:
        """The value of a success, as its task's return annotation says."""

    def revoke(self, ids: Any, *, terminate: bool = False, queue: str | None = None) -> None:
        """Have messages not run any more. Raises BrokerUnavailable."""


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
        """PENDING, SCHEDULED, STARTED, PROGRESS, RETRY, SUCCESS, FAILURE or REVOKED.

        An id of which nothing is known is PENDING, even one that was never sent. While Redis is away, what is not done
        is PENDING or RETRY.

        Raises ResultUnavailable if no results are kept or they cannot be read.
        """
        return self.look().state

    @property
    def info(self) -> Any:
        """What there is to say beside ``state``, raising nothing for a failure.

        The value of a SUCCESS; the exception that ``get()`` would raise of a FAILURE, REVOKED or RETRY; in PROGRESS
        what the task said, as in ``{"done": 3, "total": 7}``; None else. Raises ResultUnavailable as ``state`` does.
        """
        found = self.look()
        if isinstance(found, State):
            return found.info
        return self.source.value_of(found) if found.state == SUCCESS else _failure(found)

    @property
    def children(self) -> list[AsyncResult[Any]]:
        """Handles of what its last run sent (``delay()`` and the like within it), once that has ended.

        Empty before that. Of a run that sent more, the first 10,000. Raises ResultUnavailable as ``state`` does.
        """
        outcome = self.source.outcomes.read(self.id)
        return [AsyncResult(one, self.source) for one in (outcome.children or () if outcome is not None else ())]

    def ready(self) -> bool:
        """Whether there is a final outcome. Raises ResultUnavailable as ``state`` does."""
        return self.final_state() is not None

    def successful(self) -> bool:
        """Whether it has ended, and well. Raises ResultUnavailable as ``state`` does."""
        return self.final_state() == SUCCESS

    def failed(self) -> bool:
        """Whether it has ended in a failure; a revoked one has not. Raises ResultUnavailable as ``state`` does."""
        return self.final_state() == FAILURE

    def get(self, timeout: float | None = None) -> R_co:
        """Wait for the outcome and return the task's value.

        ``timeout`` in seconds; None waits for ever. A value comes back as the task's return annotation says
        where the app knows the task, else as plain JSON. Waiting inside a task takes a worker's slot, and where all of
        them wait nothing goes on: that is warned about once.

        Raises TaskFailed if the task failed, TaskTimeout if it took longer than its time limit, TaskRevoked if
        it was revoked; ResultTimeout if there is no outcome in time (the task goes on); ResultUnavailable if
        no results are kept, or not where this process can read them; ValidationError for a ``timeout`` that is none.
        """
        check_timeout(timeout)
        outcome = self.source.outcomes.wait(self.id, self.queues, timeout)
        if outcome is None:
            raise ResultTimeout(
                f"no outcome of message {self.id} within {timeout} s; it waits, runs, or never was sent: "
                "`taskstream queues` shows what waits, and for which workers"
            )
        value: R_co = value_or_failure(self.source, outcome)
        return value

    def revoke(self, terminate: bool = False) -> None:
        """Have it not run any more; it ends as REVOKED when its turn comes. ``app.revoke`` says more.

        With ``terminate`` it is interrupted where it runs. Raises BrokerUnavailable.
        """
        self.source.revoke(self, terminate=terminate)

    def forget(self) -> None:
        """Delete its outcome and all that is known of it; one that is not done will have an outcome nevertheless.

        Raises ResultUnavailable if no results are kept or they cannot be reached, BrokerUnavailable.
        """
        self.source.outcomes.forget(self.id)
        self.source.unfinished.forget(self.id)

    def look(self) -> Outcome | State:
        """All there is to know now: a final outcome, else what its last delivery has said or left.

        Raises ResultUnavailable as ``state`` does.
        """
        outcome = self.source.outcomes.read(self.id)
        if outcome is not None and outcome.state in FINAL_STATES:
            return outcome
        said = self.source.unfinished.read(self.id)
        if said is not None and (outcome is None or said.delivery > outcome.delivery):
            return said
        return State(PENDING, 0) if outcome is None else outcome

    def final_state(self) -> str | None:
        """The state of its final outcome, None as long as there is none. Raises ResultUnavailable as ``state`` does."""
        outcome = self.source.outcomes.read(self.id)
        return outcome.state if outcome is not None and outcome.state in FINAL_STATES else None

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def check_timeout(timeout: object) -> None:
    """Raise ValidationError for a ``timeout`` of ``get`` that is none. Inside a task, warn of waiting at all."""
    if timeout is not None and (not isinstance(timeout, (int, float)) or math.isnan(timeout)):
        raise ValidationError(f"get: timeout={timeout!r:.200} is no number of seconds")
    running = RUNNING.get()
    if running is not None and running.message.name not in _warned:
        _warned.add(running.message.name)
        _log.warning(
            "get() inside a task takes a slot of the worker while it waits, and ends in a deadlock once all slots do: "
            "let a chain, group or chord pass values on instead",
            {"task": running.message.name, "message.id": running.message.id},
        )


def value_or_failure(source: ResultSource, outcome: Outcome) -> Any:
    """The value of a final outcome; raises the failure if it is one."""
    if outcome.state == SUCCESS:
        return source.value_of(outcome)
    raise _failure(outcome)


def _failure(outcome: Outcome) -> TaskFailed:
    failure = outcome.error or Failure(type="", message=f"{outcome.handler} ended as {outcome.state}")
    kind = TaskFailed
    if outcome.state == REVOKED:
        kind = TaskRevoked
    elif failure.type == TimeLimitExceeded.__name__:
        kind = TaskTimeout
    return kind(failure.message, type_name=failure.type, traceback_text=failure.traceback)
