"""What follows a message of a workflow: its form in the header ``ts-then``, and what it makes a worker do. Pure.

A message carries everything that comes after it, so whoever finishes it needs nothing else. The ids of all that
follows are fixed when the workflow starts; so whatever is published again by a repeated run is known to be there.
Nothing here talks to Redis or knows a task's code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from taskstream import keys
from taskstream.errors import ConfigError, InvalidMessage
from taskstream.handler import Follower, Handler, Joining, Opening, Settings, Successor
from taskstream.message import (
    FAILED_HEADER,
    GROUP_HEADER,
    MESSAGE_ID,
    OWN_HEADERS,
    PARENT_HEADER,
    PRIORITY,
    ROOT_HEADER,
    THEN_HEADER,
    Delivery,
    Message,
    handed_on,
)

FAILED_TEXT = 4000
"""Characters of an error's text, and of its traceback, that are passed on: it may go to ten thousand members."""


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call that is to be published, under its ``id``.

    What came before is its first argument, before ``args``, unless it is ``si``. ``group`` it belongs to. The others
    are those of the message and of its envelope.
    """

    id: str
    task: str
    queue: str
    args: list[msgspec.Raw] = []
    kwargs: dict[str, msgspec.Raw] = {}
    si: bool = False
    headers: dict[str, Any] | None = None
    group: str | None = None
    priority: int = PRIORITY
    expires_ms: int | None = None
    expires_in_ms: int | None = None
    delay_ms: int | None = None
    due_ms: int | None = None
    ordering_key: str | None = None


class Place(msgspec.Struct, frozen=True):
    """Where the value goes: member number ``index`` (from 0) of the chord whose callback is ``id`` on ``queue``."""

    id: str
    queue: str
    index: int


class Chord(msgspec.Struct, frozen=True):
    """What follows when all members of a group are done, with the list of their values. Its first call is ``id``."""

    id: str
    queue: str
    then: Then


class Fan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Members that begin at once, each with the value of what came before."""

    members: list[Then]
    chord: Chord | None = None


class Then(msgspec.Struct, frozen=True, omit_defaults=True):
    """``calls`` one after the other; after the last of them ``fan``, or the value goes to its place in a chord."""

    calls: list[Call] = []
    fan: Fan | None = None
    join: Place | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing follows."""
        return not self.calls and self.fan is None and self.join is None

    @property
    def depth(self) -> int:
        """How many groups lie in, or follow, one another in it."""
        if self.fan is None:
            return 0
        after = 0 if self.fan.chord is None else self.fan.chord.then.depth
        return 1 + max(after, max((member.depth for member in self.fan.members), default=0))

    @property
    def takes_value(self) -> bool:
        """Whether anything of it needs the value of what came before."""
        if self.calls:
            return not self.calls[0].si
        if self.fan is not None:
            return any(member.takes_value for member in self.fan.members)
        return self.join is not None


class Failed(msgspec.Struct, frozen=True):
    """How a message of a workflow ended badly: ``state`` FAILURE or REVOKED, the error, and whose it was."""

    state: str
    type: str
    message: str
    traceback: str = ""
    id: str = ""


class Origin(msgspec.Struct, frozen=True):
    """What is handed on to what follows: headers, and which message's run publishes it, if one's does."""

    headers: dict[str, Any] | None = None
    parent: str | None = None
    root: str | None = None


_then = msgspec.json.Decoder(Then).decode
_failed = msgspec.json.Decoder(Failed).decode
_origin = msgspec.json.Decoder(Origin).decode
_encode = msgspec.json.Encoder().encode


class _Gathered(msgspec.Struct):
    args: tuple[msgspec.Raw]


_gathered = msgspec.json.Decoder(_Gathered).decode


def after(message: Message, dump: Callable[[], bytes]) -> tuple[Follower, ...]:
    """What follows a message that has succeeded; ``dump()`` gives its value as JSON, where that is needed.

    Raises InvalidMessage if its header cannot be read, and what ``dump`` raises.
    """
    if not has_followers(message):
        return ()
    then = _read(message)
    return tuple(follow(then, dump() if then.takes_value else b"null", origin_of(message)))


def after_failure(message: Message, failed: Failed) -> tuple[Follower, ...]:
    """What tells those that were to follow a message that it has failed for good; nothing if they cannot be read."""
    if not has_followers(message):
        return ()
    try:
        then = _read(message)
        return tuple(follow(then, None, origin_of(message), _encode(failed)))
    except InvalidMessage:
        return ()


def has_followers(message: Message) -> bool:
    """Whether anything follows a message."""
    return bool(message.headers) and THEN_HEADER in message.headers  # type: ignore[operator]


def failed_before(message: Message) -> Failed | None:
    """Why a message is not to be run, if it is not."""
    if not message.headers or FAILED_HEADER not in message.headers:
        return None
    try:
        return msgspec.convert(message.headers[FAILED_HEADER], Failed)
    except msgspec.ValidationError:
        # Anybody can have written it.
        return Failed("FAILURE", "", "what came before it has failed")


def failed_with(message: Message, state: str, kind: str, text: str, traceback: str) -> Failed:
    """How ``message`` failed, short enough to be passed on."""
    return Failed(state, kind, _cut(text), _cut(traceback), message.id)


def gathered(joining: Joining, then: bytes, origin: bytes, values: list[bytes]) -> tuple[Follower, ...]:
    """What follows a chord whose members have all succeeded; ``joining`` is one of them.

    Raises InvalidMessage for what no worker wrote.
    """
    return tuple(follow(*_opened(joining, then, origin, b"[" + b",".join(values) + b"]")))


def gathered_failure(joining: Joining, then: bytes, origin: bytes) -> tuple[Follower, ...]:
    """What tells those that were to follow a chord that ``joining`` failed. Raises as ``gathered`` does."""
    return tuple(follow(*_opened(joining, then, origin, None), joining.failed))


def _opened(joining: Joining, then: bytes, origin: bytes, value: bytes | None) -> tuple[Then, bytes | None, Origin]:
    try:
        found, came = _then(then), _origin(origin)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"what follows chord {joining.id} cannot be read: {error}") from None
    return found, value, Origin(came.headers, joining.parent, came.root or joining.root)


def origin_of(message: Message) -> Origin:
    """What ``message`` hands on."""
    return Origin(handed_on(message.headers), message.id, _root(message))


def _root(message: Message) -> str:
    root = (message.headers or {}).get(ROOT_HEADER)
    return root if isinstance(root, str) else message.id


def follow(then: Then, value: bytes | None, origin: Origin, failed: bytes | None = None) -> Iterator[Follower]:
    """What ``then`` makes to be done, after ``value`` (JSON), or after something ``failed`` (JSON of Failed).

    What opens a chord comes before what joins it.
    """
    if then.calls:
        call, rest = then.calls[0], Then(then.calls[1:], then.fan, then.join)
        message = _message(call, rest, value, origin, failed)
        if failed is not None:
            yield Successor(_queue(call.queue), message, failed=True)
        else:
            due, order = call.due_ms, call.ordering_key
            yield Successor(_queue(call.queue), message, delay_ms=call.delay_ms, due_ms=due, ordering_key=order)
    elif then.fan is not None:
        chord = then.fan.chord
        if chord is not None:
            # Headers only: the members' own ids are the parents of what follows them.
            opened = _encode(Origin(origin.headers, None, origin.root))
            yield Opening(_queue(chord.queue), chord.id, len(then.fan.members), _encode(chord.then), opened)
        for member in then.fan.members:
            yield from follow(member, value, origin, failed)
    elif then.join is not None:
        place, parent = then.join, origin.parent or ""
        yield Joining(_queue(place.queue), place.id, place.index, value, failed, parent, origin.root or parent)


def _message(call: Call, rest: Then, value: bytes | None, origin: Origin, failed: bytes | None) -> Message:
    if not MESSAGE_ID.fullmatch(call.id):
        raise InvalidMessage(f"what follows has {call.id!r:.200} for an id")
    headers: dict[str, Any] = {**(origin.headers or {}), **(call.headers or {})}
    if failed is not None:
        # It is not run, so it takes no part in what its call is tied to.
        headers = {name: value for name, value in headers.items() if not name.startswith(OWN_HEADERS)}
    if not rest.empty:
        # As text: it nests as deeply as the workflow does, and is read only by who needs it.
        headers[THEN_HEADER] = _encode(rest).decode()
    for name, own in ((PARENT_HEADER, origin.parent), (ROOT_HEADER, origin.root), (GROUP_HEADER, call.group)):
        if own is not None:
            headers[name] = own
    if failed is not None:
        headers[FAILED_HEADER] = msgspec.json.decode(failed)
        return Message(call.id, call.task, b"{}", headers)
    args = call.args if call.si or value is None else [msgspec.Raw(value), *call.args]
    return Message(
        call.id,
        call.task,
        _encode(body_of(args, call.kwargs)),
        headers or None,
        priority=call.priority,
        expires_ms=call.expires_ms,
        expires_in_ms=call.expires_in_ms,
    )


def body_of(args: list[msgspec.Raw], kwargs: Mapping[str, msgspec.Raw]) -> dict[str, object]:
    """The parts of a call's body; what is empty is left out."""
    body: dict[str, object] = {}
    if args:
        body["args"] = args
    if kwargs:
        body["kwargs"] = kwargs
    return body


def _read(message: Message) -> Then:
    assert message.headers is not None
    text = message.headers[THEN_HEADER]
    try:
        return _then(text)
    except (msgspec.MsgspecError, TypeError, UnicodeError, RecursionError) as error:
        raise InvalidMessage(f"what follows {message.id} cannot be read: {error}") from None


def _queue(name: str) -> str:
    try:
        return keys.check_name("queue", name)
    except ConfigError as error:
        raise InvalidMessage(f"what follows goes to a queue that is none: {error}") from None


def _cut(text: str) -> str:
    return text if len(text) <= FAILED_TEXT else f"{text[: FAILED_TEXT // 2]}\n…\n{text[-FAILED_TEXT // 2 :]}"


def gather_handler(app: str) -> Handler:
    """What runs ``keys.GATHER``: its value is its one argument, so that what follows gets that."""

    def run(delivery: Delivery) -> object:
        try:
            return _gathered(delivery.message.body).args[0]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidMessage(f"{keys.GATHER}: the body is no such call: {error}") from None

    return Handler(
        name=keys.GATHER,
        run=run,
        app=app,
        version="-",
        log_done_at=logging.DEBUG,
        # Deaths are never its own doing; a low limit would have others run alone early.
        settings=Settings(max_retries=0, max_deliveries=2**31 - 1, ignore_result=True),
        successors=lambda delivery, value: after(delivery.message, lambda: bytes(value)),  # type: ignore[call-overload]
    )
