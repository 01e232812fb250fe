"""What the executor keeps for a handler: its log, its hooks, whether its start has run. Runs no message itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taskstream import middleware
from taskstream.errors import Postpone, Refuse
from taskstream.handler import Handler
from taskstream.logs import FieldLogger
from taskstream.message import Delivery
from taskstream.middleware import Middleware, Run, overriding, tell
from taskstream.results.base import Failure
from taskstream.running import TRACKING

from . import outcomes
from .limits import NoSlot, ToldToCome
from .membership import Job


class PutOff(BaseException):
    """A message does not run now. Never seen by a handler.

    ``reason`` is what a hook raised, None where the message's end is decided.
    """

    def __init__(self, reason: Postpone | Refuse | None) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Hooks:
    """The hooks of one handler's runs that somebody overrides."""

    def __init__(self, found: Sequence[Middleware]) -> None:
        self._before = [(one.before_run, one) for one in overriding(found, "before_run")]
        self._after = overriding(found, "after_run")
        self._retry = overriding(found, "on_retry")
        self._failure = overriding(found, "on_failure")

    @property
    def any(self) -> bool:
        """Whether there is anything to call."""
        return bool(self._before or self._after or self._retry or self._failure)

    def before(self, job: Job) -> None:
        """The message is about to run. Raises PutOff, and what a loud hook raises."""
        run = job.seen()
        try:
            for hook, one in self._before:
                self._ask(hook, one, run)
        finally:
            # Whatever comes of it, and also what a hook took before it was interrupted.
            job.ties += run.ties

    @staticmethod
    def _ask(hook: Callable[[Run], None], one: Middleware, run: Run) -> None:
        try:
            hook(run)
        except (Postpone, Refuse) as reason:
            raise PutOff(reason) from None
        except Exception as error:
            if one.loud:
                raise
            middleware.say(one, "before_run", error)

    def after(self, job: Job, value: object, error: BaseException | None) -> None:
        """The run's end is decided. What is thrown in meanwhile changes nothing about that."""
        try:
            tell(self._after, "after_run", job.seen(), value, error)
            if error is not None:
                self.ended(job, error)
        except BaseException as late:
            middleware.engine_log().debug("Hooks were interrupted", {"error": late})

    def ended(self, job: Job, error: BaseException) -> None:
        """A failure was decided on, with or without a run."""
        error = outcomes.failure_behind(job, error)
        if job.move == "r":
            tell(self._retry, "on_retry", job.seen(), error, job.delay_ms / 1000)
        elif job.move == "d":
            tell(self._failure, "on_failure", job.seen(), error)


class Known:
    """What is kept for one handler; ``hooks`` is None where there are none to call.

    ``watched``: there are, or its runs have time limits.
    """

    __slots__ = ("handler", "hooks", "log", "ready", "watched")

    def __init__(self, handler: Handler, found: Sequence[Middleware]) -> None:
        self.handler = handler
        self.log = FieldLogger(handler.app, handler.version, event_of(handler))
        self.ready = False
        hooks = Hooks(found)
        self.hooks = hooks if hooks.any else None
        settings = handler.settings
        self.watched = hooks.any or settings.timeout is not None or settings.hard_timeout is not None

    def put_off(self, job: Job, error: PutOff, worker: str, keep: bool) -> None:
        """Decide the end of a message that a hook did not let run."""
        reason = error.reason
        if job.handed or reason is None:
            return
        if isinstance(reason, NoSlot):
            outcomes.park(job)
        elif isinstance(reason, ToldToCome):
            outcomes.postpone(job, reason.seconds, reason.at)
        elif isinstance(reason, Postpone):
            outcomes.postpone(job, reason.seconds)
            self.log.debug("Put off by a hook", {**about(job), "retry.delay": reason.seconds})
        else:
            outcomes.revoke(job, Failure("Refuse", str(reason)), worker, keep)
            self.log.warning("REVOKED by a hook", {**about(job), "reason": str(reason)})

    def log_end(self, job: Job, elapsed_ms: float, failure: BaseException | None) -> None:
        """The line at the end of a run."""
        fields = about(job)
        fields["metrics.duration"] = round(elapsed_ms, 3)
        if failure is not None:
            failure = outcomes.failure_behind(job, failure)
        if failure is None:
            fields["response.status"] = 200
            self.log.log(self.handler.log_done_at, "DONE", fields)
        elif job.move == "r":
            fields["retry.delay"] = job.delay_ms / 1000
            self.log.warning("FAILED, will be tried again", fields, exc=failure)
        elif job.move == "a":
            self.log.warning("REVOKED while it ran", fields)
        elif job.move == "g":
            self.log.warning("FAILED, interrupted and given back", fields)
        else:
            fields["response.status"] = 500
            self.log.error("FAILED", fields, exc=failure)


def event_of(handler: Handler) -> str:
    """What a line calls the handler: the app has a place of its own in it."""
    return handler.name.removeprefix(f"{handler.app}.")


def about(job: Job) -> dict[str, object]:
    """Log fields of one message."""
    delivery = job.delivery
    return {"stream.name": delivery.stream, "stream.consumer_group": delivery.group, **about_run(delivery)}


def about_run(delivery: Delivery) -> dict[str, object]:
    """Those of them that do not follow from the handler."""
    fields: dict[str, object] = {"message.id": delivery.message.id, "message.attempt": delivery.message.attempt}
    headers = delivery.message.headers
    if headers:
        for name in TRACKING:
            if name in headers:
                fields[f"track.{name}"] = headers[name]
    return fields
