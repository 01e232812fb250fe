"""``chain``, ``group`` and ``chord``: several calls as one, started by ``apply_async``, ``delay`` or a call.

What they mean to whoever runs them is in taskstream.continuation; this module only puts them together and starts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, cast

import msgspec

from taskstream.app.call_options import PLAIN, SendOptions, check, merged, refuse_unknown
from taskstream.app.plan import Handle, Part, Plan, refuse
from taskstream.app.signature import Signature
from taskstream.broker.workflows import Chords, envelope_of
from taskstream.continuation import Call, Fan, Origin, Then, follow
from taskstream.errors import BrokerUnavailable, ValidationError
from taskstream.handler import Opening, Successor
from taskstream.keys import GATHER

W = TypeVar("W", bound="Workflow")

MOST_GROUPS = 100
"""Groups that may lie in one another, or follow one another in one chain: what is nested deeper could not be read."""

OPENINGS = 500
"""Chords opened in one round trip."""

AT_THE_START = ("countdown", "eta")
OF_ALL_CALLS = ("queue", "priority", "expires", "headers")


class Workflow:
    """Several calls as one. Immutable; it may be started any number of times."""

    def __init__(self) -> None:
        self.options: SendOptions = PLAIN

    def set(self: W, **options: Unpack[SendOptions]) -> W:
        """The same with options of ``apply_async``; what is None stays as it was."""
        refuse_unknown(f"{self}: set", options)
        changed = self._copy()
        changed.options = merged(self.options, options)
        return changed

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Start it; the calls that begin it get these arguments before their own. Raises as ``apply_async`` does."""
        return self.apply_async(args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The same as ``delay``."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[SendOptions]
    ) -> Any:
        """Start it; return the handle of what it comes to.

        ``queue``, ``priority``, ``expires`` and ``headers`` hold for every call in it that says nothing else,
        ``countdown`` and ``eta`` for those that begin it. ``task_id`` is the id of the result. With that or an
        ``idempotency_key`` a start that is repeated within 24 h sends only what had not been sent, and returns the
        handle of the first.

        Raises ValidationError, before anything is sent, for whatever is no call and for a call that does not fit;
        BrokerUnavailable and QueueFull as ``enqueue_many`` does, with what was sent in ``sent``.
        """
        refuse_unknown(f"{self}: apply_async", options)
        return _start(self, args, {} if kwargs is None else kwargs, merged(self.options, options))

    def __or__(self, other: Any) -> chain:
        return chain(self, other)

    def __ror__(self, other: Any) -> chain:
        return chain(other, self)

    def __str__(self) -> str:
        return type(self).__name__

    def _copy(self: W) -> W:
        changed = type(self).__new__(type(self))
        changed.__dict__.update(self.__dict__)
        return changed


class chain(Workflow):
    """Calls one after the other; each gets the value of the one before as its first argument.

    ``chain(a.s(1), b.s())``, ``chain([…])`` or ``a.s(1) | b.s()``. Its handle is the last one's, ``parent`` the handle
    of the one before. A group in it is waited for: what follows it gets the list of its values.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        if len(parts) == 1 and not _is_part(parts[0]):
            parts = tuple(_listed("chain", parts[0]))
        self.parts: tuple[Any, ...] = tuple(
            inner
            for part in parts
            for inner in (part.parts if isinstance(part, chain) and not part.options else (part,))
        )

    def __repr__(self) -> str:
        return f"<chain of {len(self.parts)} steps>"


class group(Workflow):
    """Calls that begin at once: ``group(task.s(x) for x in …)`` or ``group(a.s(), b.s())``. Its handle: GroupResult."""

    def __init__(self, *members: Any) -> None:
        super().__init__()
        if len(members) == 1 and not _is_part(members[0]):
            members = tuple(_listed("group", members[0]))
        self.members: tuple[Any, ...] = members

    def __repr__(self) -> str:
        return f"<group of {len(self.members)} members>"


class chord(Workflow):
    """A group, and a call that gets the list of its values: ``chord(header, callback)`` or ``chord(header)(callback)``.

    ``header`` is a group or calls. Its handle is the callback's, ``parent`` the group's.
    """

    def __init__(self, header: Any, callback: Any = None) -> None:
        super().__init__()
        self.header = header if isinstance(header, group) else group(_listed("chord", header))
        self.callback = callback

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Start it; with a callback as the only argument where it has none yet."""
        if self.callback is None and len(args) == 1 and not kwargs:
            changed = self._copy()
            changed.callback = args[0]
            return changed.apply_async()
        return self.apply_async(args, kwargs)

    def __repr__(self) -> str:
        return f"<chord of {len(self.header.members)} members>"


def _is_part(one: object) -> bool:
    return isinstance(one, (Signature, Workflow))


def _listed(what: str, given: Any) -> list[Any]:
    if isinstance(given, (Mapping, str, bytes)) or not isinstance(given, Iterable):
        raise ValidationError(f"{what}: give calls, as in {what}(task.s(x) for x in …), not {given!r:.200}")
    return list(given)


def _start(work: Signature | Workflow, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> Any:
    """Check everything, then send what begins ``work``."""
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
        raise ValidationError(f"{work}: args is a list or tuple of arguments, kwargs a mapping of names to them")
    said = check(str(work), options)
    if said.ordering_key is not None:
        raise ValidationError(f"{work}: ordering_key: give it to the calls in it, with set()")
    plan, result_id = Plan(None), None
    if said.uniques:
        # The same ids again, so that a repeated start finds what was sent.
        key = options.get("idempotency_key")
        plan = Plan(said.task_id or f"{_host_name(work)} {key}")
        result_id = said.task_id or plan.new_id()
    part = Part(
        False,
        _chosen(options, OF_ALL_CALLS),
        _chosen(options, AT_THE_START),
        result_id,
        where=(str(work),),
    )
    begun = _with_arguments(work, tuple(args), dict(kwargs)) if args or kwargs else work
    try:
        then, handle = _build(plan, begun, Then(), part)
        too_deep = then.depth > MOST_GROUPS
    except RecursionError:
        too_deep = True
    if too_deep:
        refuse(part.where, f"more than {MOST_GROUPS} groups lie in, or follow, one another")
    if plan.host is not None:
        _launch(plan, then, keyed=bool(said.uniques))
    return handle


def _build(plan: Plan, work: Any, then: Then, part: Part) -> tuple[Then, Handle]:
    if isinstance(work, Signature):
        return plan.call(work, then, part)
    if not isinstance(work, Workflow):
        refuse(part.where, f"{work!r:.200} is no call: give task.s(…)")
    if work.options:
        part = _narrowed(part, work.options)
    if isinstance(work, group):
        return plan.group(work.members, lambda member, end, inner: _build(plan, member, end, inner), then, part)
    if isinstance(work, chord):
        if work.callback is None:
            refuse(part.where, "a chord has no callback: give chord(header, task.s(…))")
        steps = [("header", work.header), ("callback", work.callback)]
    else:
        assert isinstance(work, chain)
        steps = [(f"step {index}", step) for index, step in enumerate(work.parts, 1)]
    return _build_steps(plan, steps, then, part)


def _build_steps(plan: Plan, steps: Sequence[tuple[str, Any]], then: Then, part: Part) -> tuple[Then, Handle]:
    """One after the other, from the last to the first."""
    if not steps:
        refuse(part.where, "a chain without a step: give calls, as in chain(a.s(1), b.s())")
    handle: Handle | None = None
    follower: Handle | None = None
    for index in range(len(steps) - 1, -1, -1):
        name, step = steps[index]
        inner = msgspec.structs.replace(
            part,
            fed=part.fed or index > 0,
            first=part.first if index == 0 else PLAIN,
            result_id=part.result_id if follower is None else None,
            where=(*part.where, name),
        )
        then, made = _build(plan, step, then, inner)
        if follower is None:
            handle = made
        else:
            _oldest(follower).parent = made
        follower = made
    assert handle is not None
    return then, handle


def _oldest(handle: Handle) -> Handle:
    """What a part of a chain begins with."""
    while handle.parent is not None:
        handle = handle.parent
    return handle


def _narrowed(part: Part, options: SendOptions) -> Part:
    """What holds in a part that has options of its own."""
    of_all = merged(part.options, _chosen(options, OF_ALL_CALLS))
    first = merged(part.first, _chosen(options, AT_THE_START))
    own = options.get("task_id") or part.result_id
    return msgspec.structs.replace(part, options=of_all, first=first, result_id=own)


def _chosen(options: SendOptions, names: Sequence[str]) -> SendOptions:
    return cast(SendOptions, {name: value for name, value in options.items() if name in names})


def _with_arguments(work: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same with more arguments for the calls that begin it."""
    if isinstance(work, Signature):
        return work.with_arguments(args, kwargs)
    if isinstance(work, chain):
        changed = work._copy()
        changed.parts = (*(_with_arguments(part, args, kwargs) for part in work.parts[:1]), *work.parts[1:])
        return changed
    if isinstance(work, group):
        grown = work._copy()
        grown.members = tuple(_with_arguments(member, args, kwargs) for member in work.members)
        return grown
    if isinstance(work, chord):
        both = work._copy()
        both.header = _with_arguments(work.header, args, kwargs)
        return both
    return work  # no call: told when it is built


def _host_name(work: Any) -> str:
    """The app of the first call in a workflow, '' if there is none."""
    while not isinstance(work, Signature):
        inner: Sequence[Any] = ()
        if isinstance(work, chain):
            inner = work.parts
        elif isinstance(work, group):
            inner = work.members
        elif isinstance(work, chord):
            inner = (*work.header.members, work.callback)
        if not inner:
            return ""
        work = inner[0]
    return str(work.task.host.name)


def _unfed(then: Then) -> Then:
    """The same, taking nothing from what is put before it."""
    if then.calls:
        first = msgspec.structs.replace(then.calls[0], si=True)
        return Then([first, *then.calls[1:]], then.fan, then.join)
    if then.fan is not None:
        return Then(fan=Fan([_unfed(member) for member in then.fan.members], then.fan.chord))
    return then


def _launch(plan: Plan, then: Then, *, keyed: bool) -> None:
    """Send what begins a workflow."""
    host = plan.host
    followers = list(follow(then, None, Origin()))
    openings = [one for one in followers if isinstance(one, Opening)]
    if openings and host.outbox is not None:
        # What the outbox keeps while Redis is away is messages: this one opens the chord where it is run.
        first = Call(plan.new_id(), GATHER, openings[0].queue, [msgspec.Raw(b"null")], si=True)
        followers, openings = list(follow(Then([first], _unfed(then).fan), None, Origin())), []
    try:
        for start in range(0, len(openings), OPENINGS):
            Chords(host.broker).open(openings[start : start + OPENINGS])
    except BrokerUnavailable as error:
        error.maybe_sent = False  # an open chord is nothing that runs
        raise
    items = [
        envelope_of(one, once=keyed or one.message.id in plan.chosen) for one in followers if isinstance(one, Successor)
    ]
    if len(items) == 1:
        host.send(items[0])
    else:
        host.send_many(items)
