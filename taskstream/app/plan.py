"""Turns a workflow into what a message carries of it: ids for everything, calls checked, handles. Sends nothing.

Built from its end: each part is told what follows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import msgspec

from taskstream.app import sending
from taskstream.app.call_options import SendOptions, merged
from taskstream.app.group_result import GroupResult
from taskstream.app.result import AsyncResult
from taskstream.app.signature import Signature, Startable
from taskstream.broker import Envelope
from taskstream.continuation import Call, Chord, Fan, Place, Then
from taskstream.errors import ValidationError
from taskstream.keys import GATHER
from taskstream.message import derived_id, new_id

HINT = "the first argument of this step is what comes before it; with .si(…) it gets none"

Handle = AsyncResult[Any] | GroupResult


class _Body(msgspec.Struct):
    args: list[msgspec.Raw] = []
    kwargs: dict[str, msgspec.Raw] = {}


_decode_body = msgspec.json.Decoder(_Body).decode


class Part(msgspec.Struct, frozen=True):
    """How a part of a workflow is to be built.

    ``fed``: a value comes before it. ``options`` hold for every call in it that says nothing else, ``first`` for those
    that begin it. ``result_id`` is the id that its result is to have; ``group`` it belongs to. ``where`` is for errors.
    """

    fed: bool
    options: SendOptions
    first: SendOptions
    result_id: str | None = None
    group: str | None = None
    where: tuple[str, ...] = ()


class Plan:
    """One start of a workflow. ``base``: ids are made from it, so that a repeated start has the same ones."""

    def __init__(self, base: str | None) -> None:
        self.host: Any = None
        """The app of its tasks, as soon as there is one."""
        self.chosen: set[str | None] = set()
        """The ids that calls came with."""
        self._next = itertools.count()
        self._base = base

    def new_id(self) -> str:
        """An id for a message, or for a group."""
        return new_id() if self._base is None else derived_id(self._base, str(next(self._next)))

    def call(self, one: Signature, then: Then, part: Part) -> tuple[Then, Handle]:
        """One call, and what follows it."""
        task = one.task
        if self.host is None:
            self.host = task.host
        elif task.host is not self.host:
            refuse(part.where, f"{task.name} is of app {task.host.name}, the calls before it are of {self.host.name}")
        fed = part.fed and not one.immutable
        envelope = self._envelope(one, part, fed)
        message = envelope.message
        body = _decode_body(message.body)
        call = Call(
            message.id,
            message.name,
            envelope.stream,
            body.args,
            body.kwargs,
            one.immutable,
            message.headers,
            part.group,
            message.priority,
            message.expires_ms,
            message.expires_in_ms,
            envelope.delay_ms,
            envelope.due_ms,
            envelope.ordering_key,
        )
        return Then([call, *then.calls], then.fan, then.join), AsyncResult(call.id, self.host, call.queue)

    def _envelope(self, one: Signature, part: Part, fed: bool) -> Envelope:
        options = one.options
        if part.options or part.first:
            options = merged(merged(part.options, part.first), options)
        if options.get("task_id") is not None:
            self.chosen.add(options["task_id"])
        elif self._base is not None or part.result_id is not None:
            options = merged(options, {"task_id": part.result_id or self.new_id()})
        task: Any = one.task
        if options.get("idempotency_key") is not None:
            refuse(part.where, f"{task.name}: idempotency_key: give it to the apply_async of the whole")
        if task.unique:
            refuse(part.where, f"{task.name} is unique=True: a call that is not sent cannot be a step of a workflow")
        try:
            return sending.envelope(_Fed(task) if fed else task, one.args, one.kwargs, options)
        except ValidationError as error:
            hint = f" ({HINT})" if fed and ("args" in error.errors or "twice" in str(error)) else ""
            said = f"{said_where(part.where)}{error}{hint}"
            raise ValidationError(said, error.errors) from None

    def group(
        self,
        members: Sequence[Any],
        build: Callable[[Any, Then, Part], tuple[Then, Handle]],
        then: Then,
        part: Part,
    ) -> tuple[Then, GroupResult]:
        """Members that begin at once; what follows gets the list of their values."""
        group_id = part.result_id or self.new_id()
        chord = None
        if not then.empty:
            if not then.calls:
                then = Then([Call(self.new_id(), GATHER, _queue(then) or self.host.name)], then.fan, then.join)
            callback = then.calls[0]
            if not members:
                nothing = Call(self.new_id(), GATHER, callback.queue, [msgspec.Raw(b"[]")], si=True)
                return Then([nothing, *then.calls], then.fan, then.join), GroupResult(group_id, ())
            chord = Chord(callback.id, callback.queue, then)
        built, handles = [], []
        for index, member in enumerate(members):
            place = Then() if chord is None else Then(join=Place(chord.id, chord.queue, index))
            inner = Part(part.fed, part.options, part.first, None, group_id, (*part.where, f"member {index}"))
            step, handle = build(member, place, inner)
            built.append(step)
            handles.append(handle)
        return Then(fan=Fan(built, chord)), GroupResult(group_id, handles)


class _Fed:
    """A task whose calls get their first argument later."""

    def __init__(self, task: Startable) -> None:
        self.name = task.name
        self.queue = task.queue
        self.unique = task.unique
        self.call_digest = task.call_digest
        self.message = task.fed_message


def _queue(then: Then) -> str | None:
    """The queue of the first that follows."""
    if then.calls:
        return then.calls[0].queue
    if then.fan is not None:
        return next((found for member in then.fan.members if (found := _queue(member)) is not None), None)
    return None if then.join is None else then.join.queue


def refuse(where: Iterable[str], reason: str) -> NoReturn:
    """Raise ValidationError for a part of a workflow."""
    raise ValidationError(f"{said_where(where)}{reason}")


def said_where(where: Iterable[str]) -> str:
    """How errors begin."""
    return "".join(f"{one}: " for one in where)
