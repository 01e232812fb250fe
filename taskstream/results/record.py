"""An outcome as programs outside get it, over HTTP and from the command line: names, plain values, times as text.

A failure is told by its type and its text; its traceback stays in the store.
"""

from __future__ import annotations

from taskstream.broker.states import State
from taskstream.durations import moment
from taskstream.results.base import SUCCESS, Outcome


def record(outcome: Outcome) -> dict[str, object]:
    """What became of a message: ``value`` of a success, ``error`` of anything else."""
    found: dict[str, object] = {"id": outcome.id, "state": outcome.state, "task": outcome.handler}
    if outcome.state == SUCCESS:
        found["value"] = outcome.value
    elif outcome.error is not None:
        found["error"] = {"type": outcome.error.type, "message": outcome.error.message}
    found |= {
        "attempts": outcome.attempts,
        "sent": moment(outcome.sent_ms),
        "started": moment(outcome.started_ms),
        "finished": moment(outcome.finished_ms),
        "worker": outcome.worker,
    }
    if outcome.request_id is not None:
        found["request_id"] = outcome.request_id
    return found


def record_of_unfinished(message_id: str, said: State) -> dict[str, object]:
    """What a message that is not done is at: ``since`` when, ``info`` of the task's own, ``due`` of a scheduled one."""
    found: dict[str, object] = {"id": message_id, "state": said.state, "since": moment(said.at_ms)}
    if said.info is not None:
        found["info"] = said.info
    if said.worker:
        found["worker"] = said.worker
    if said.due_ms:
        found["due"] = moment(said.due_ms)
    return found
