"""What becomes of messages just read: queued for the executor, or decided at once where they cannot run here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskstream.broker.group import Entry
from taskstream.continuation import failed_before
from taskstream.errors import InvalidMessage, TimeLimitExceeded, WorkerDied
from taskstream.handler import QUEUE_GROUP, Handler
from taskstream.logs import FieldLogger
from taskstream.message import DEATHS_HEADER, Delivery, Message, from_fields, plain_message
from taskstream.results.base import Failure
from taskstream.ties import Tie, ties_of, ties_of_fields

from . import outcomes
from .clock import boottime
from .known import Hooks, PutOff, about
from .membership import Job, Membership
from .server_clock import ServerClock

MAX_DEATHS = 2**31 - 1
"""More than that a header cannot say."""

if TYPE_CHECKING:
    from .consumer import Consumer


def accept(consumer: Consumer, membership: Membership, entries: Sequence[Entry], *, run: bool = True) -> None:
    """Make jobs of ``entries`` that ``consumer`` now holds; give them back if not ``run``."""
    subscription, around = consumer.subscription, consumer.around
    stream, group, handler_for = subscription.stream, subscription.group, subscription.handler_for
    jobs, slots, queue = membership.jobs, around.slots, around.queue
    for entry in entries:
        try:
            message = plain_message(entry.fields) if run else None
            handler = handler_for(message.name) if message is not None else None
            if message is None or handler is None or entry.deaths or entry.why:
                _accept(consumer, membership, entry, run)
                continue
            # Nearly every message: nothing is said of it that could have it end without a run.
            from_again, entry_id = entry.from_again, entry.entry_id
            at = from_again, entry_id
            if at not in jobs:
                delivery = Delivery(message, stream, group, entry_id, entry.times, from_again)
                job = jobs[at] = Job(membership, delivery, handler, at)
                consumer.active += 1
                slots.used += 1
                queue.put(job)
        except Exception as error:
            _bury_strange(consumer, membership, entry, error)


def _bury_strange(consumer: Consumer, membership: Membership, entry: Entry, error: Exception) -> None:
    """What cannot even be looked at must not stay held: it would wait here for as long as the process lives."""
    at = (entry.from_again, entry.entry_id)
    known = membership.jobs.get(at)
    if known is not None and known.handed:
        return
    stream, group = consumer.subscription.stream, consumer.subscription.group
    message = known.delivery.message if known is not None else Message(f"entry-{entry.entry_id}", "", b"")
    job = Job(membership, Delivery(message, stream, group, entry.entry_id, entry.times, entry.from_again), None, at)
    job.ties = _ties_of_entry(stream, group, entry)
    membership.jobs[at] = job
    told = outcomes.describe(error)
    outcomes.bury_unreadable(
        job, entry.fields, f"cannot be handled: {told.type}: {told.message}", consumer.around.worker
    )
    consumer.around.log.error("Message cannot be handled: dead letter", _about(job), exc=error)
    consumer.acker.put(job)


def _accept(consumer: Consumer, membership: Membership, entry: Entry, run: bool) -> None:
    around, subscription = consumer.around, consumer.subscription
    stream, group = subscription.stream, subscription.group
    jobs, slots, queue, acker = membership.jobs, around.slots, around.queue, consumer.acker
    at = entry.from_again, entry.entry_id
    if at in jobs:
        return  # handed out once more to the same consumer: an operator has set the group back
    unreadable = None
    try:
        message = from_fields(entry.fields)
    except InvalidMessage as error:
        unreadable = str(error)
        message = Message(f"entry-{entry.entry_id}", "", b"")
    deaths = entry.deaths
    failed = None
    if message.headers:
        failed = failed_before(message)
        if DEATHS_HEADER in message.headers:
            known = message.headers[DEATHS_HEADER]
            # Anybody can have written it.
            deaths = max(deaths, min(known, MAX_DEATHS)) if isinstance(known, int) else deaths
    delivery = Delivery(
        message, stream, group, entry.entry_id, message.deliveries + entry.times, entry.from_again, deaths
    )
    handler = subscription.handler_for(message.name)
    job = Job(membership, delivery, handler, at)
    job.overran = bool(entry.why)
    if message.expires_in_ms is not None or message.expires_ms is not None:
        job.expires_ms = delivery.expires_ms
    if message.headers and failed is None and group == QUEUE_GROUP:
        job.ties = ties_of(stream, message.id, message.headers)
    jobs[at] = job
    if unreadable is not None:
        job.ties = _ties_of_entry(stream, group, entry)
        outcomes.bury_unreadable(job, entry.fields, unreadable, around.worker)
        around.log.error("Entry is no Taskstream message: dead letter", {**_about(job), "reason": unreadable})
        acker.put(job)
    elif failed is not None:
        outcomes.end_unrun(job, failed, around.worker, around.keep_results)
        around.log.debug("Not run: what it was to follow has failed", {**_about(job), "failed.id": failed.id})
        acker.put(job)
    elif entry.why and handler is not None:
        overran = TimeLimitExceeded(entry.why)
        outcomes.fail(job, overran, around.worker, around.keep_results)
        said = {**_about(job), "reason": entry.why}
        if job.move == "r":
            around.log.warning("FAILED, will be tried again", {**said, "retry.delay": job.delay_ms / 1000})
        else:
            around.log.error("FAILED", said)
        _tell(job, handler, overran)
        acker.put(job)
    elif job.expires_ms is not None and expired(job, around.clock):
        outcomes.expire(job, around.worker, around.keep_results)
        around.log.info("Expired, not run", _about(job))
        acker.put(job)
    elif not run:
        outcomes.give_back(job, started=False)
        acker.put(job)
    elif handler is None and message.id in consumer.revoked:
        outcomes.revoke(job, outcomes.REVOKED_BEFORE, around.worker, around.keep_results)
        acker.put(job)
    elif handler is None:
        if outcomes.put_back_unknown(job, around.worker, around.keep_results):
            around.log.warning("No handler for this message here, put back", _about(job))
        else:
            around.log.error("No handler for this message anywhere: dead letter", _about(job))
        acker.put(job)
    elif deaths >= handler.settings.max_deliveries:
        reason = f"{deaths} worker processes died while it ran"
        outcomes.bury(job, Failure("WorkerDied", reason), around.worker, around.keep_results)
        around.log.error("Poison message: dead letter", {**_about(job), "deaths": deaths})
        _tell(job, handler, WorkerDied(reason))
        acker.put(job)
    else:
        consumer.active += 1
        slots.used += 1
        queue.put(job)


def _tell(job: Job, handler: Handler, error: BaseException) -> None:
    """The middleware hears of what failed without a run."""
    hooks = Hooks(handler.middleware)
    if hooks.any:
        hooks.ended(job, error)


def may_run(job: Job, log: FieldLogger, worker: str, keep: bool) -> bool:
    """The lease may have run out, or the message be wanted no more: whether it runs all the same, else its end."""
    membership = job.membership
    consumer = membership.consumer
    if membership.lost or boottime() >= membership.deadline:
        if not membership.wait_until_sure():
            consumer.release_slot()
            return False
        if consumer.stopping:
            # It was told to while this waited, and counts what runs: this would be cut off and run again.
            consumer.give_back([job])
            return False
    if job.expires_ms is not None and expired(job, consumer.around.clock):
        # It waited here behind a handler that let nothing else run.
        outcomes.expire(job, worker, keep)
    elif consumer.revoked and job.delivery.message.id in consumer.revoked:
        outcomes.revoke(job, outcomes.REVOKED_BEFORE, worker, keep)
        log.info("REVOKED, does not run", about(job))
    else:
        return True
    consumer.release_slot()
    consumer.acker.put(job)
    return False


def look_again(job: Job) -> None:
    """Hooks may have waited: what was asked before them is asked again. Raises PutOff, with the end decided.

    A message that is another worker's by now has none here.
    """
    membership = job.membership
    consumer = membership.consumer
    if not membership.wait_until_sure() or job.handed:
        raise PutOff(None)
    if job.expires_ms is not None and expired(job, consumer.around.clock):
        outcomes.expire(job, consumer.around.worker, consumer.around.keep_results)
        raise PutOff(None)
    if consumer.revoked and job.delivery.message.id in consumer.revoked:
        outcomes.revoke(job, outcomes.REVOKED_BEFORE, consumer.around.worker, consumer.around.keep_results)
        raise PutOff(None)


def expired(job: Job, clock: ServerClock) -> bool:
    """Whether it is too late to start a message that expires."""
    return clock.now_ms() >= (job.expires_ms or 0)


def _ties_of_entry(stream: str, group: str, entry: Entry) -> tuple[Tie, ...]:
    return ties_of_fields(stream, entry.fields) if group == QUEUE_GROUP else ()


def _about(job: Job) -> dict[str, object]:
    message = job.delivery.message
    return {**job.membership.consumer.fields(), "message.id": message.id, "message.name": message.name}
