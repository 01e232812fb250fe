"""A registered function: sends calls of itself, and is turned into the handler that a worker runs."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import sys
import types
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, Protocol, Unpack, cast, overload

from taskstream.app import sending
from taskstream.app.asking import progress_of, retry_of
from taskstream.app.call_options import PLAIN, SendOptions, refuse_unknown
from taskstream.app.canvas import chain
from taskstream.app.options import Options, name_of
from taskstream.app.request import NOWHERE, Request
from taskstream.app.result import AsyncResult, ResultSource
from taskstream.app.signature import Signature
from taskstream.app.unfinished import Unfinished
from taskstream.arguments import Arguments, Parameter, ReturnValue
from taskstream.broker import Envelope
from taskstream.broker.states import PROGRESS, STARTED
from taskstream.continuation import after
from taskstream.errors import ConfigError
from taskstream.handler import Follower, Handler
from taskstream.inline import as_plain
from taskstream.keys import check_name
from taskstream.message import THEN_HEADER, Delivery, Message, new_id
from taskstream.middleware import RETRIES, Middleware
from taskstream.running import RUNNING, followed

if TYPE_CHECKING:
    # With defaults, so that `self: Task` needs no parameters; type checkers bring the module along.
    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P", default=...)
    Q = ParamSpec("Q")
    R = TypeVar("R", default=Any)
    C = TypeVar("C", default=Any)
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    Q = ParamSpec("Q")
    R = TypeVar("R")
    C = TypeVar("C")


class Host(ResultSource, Protocol):
    """What a task needs of its app."""

    @property
    def name(self) -> str:
        """The app's name."""

    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """The app's hooks."""

    def send(self, envelope: Envelope) -> str:
        """Put one message on its queue; return the id it is there under. Raises BrokerUnavailable or QueueFull."""

    @property
    def unfinished(self) -> Unfinished:
        """Where runs say how they get on."""

    @property
    def worker(self) -> str:
        """Name of the worker process that runs the app; empty in any other."""

    def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end and return its value."""


class Task(Generic[P, R, C]):
    """A function registered with ``@app.task``.

    Calling it runs the function here and now (``C`` is what that gives; a coroutine for an ``async def``);
    ``delay()`` sends the call to a worker (``R`` is the value it comes back with).
    """

    def __init__(self, host: Host, function: Callable[P, C], options: Options) -> None:
        """Raises ConfigError for a name or an option that cannot be used."""
        check_function(function, options.name)
        own = options.name if options.name is not None else f"{host.name}.{cast(Any, function).__name__}"
        self.name: str = check_name("task", own)
        self.queue: str = check_name("queue", host.name if options.queue is None else options.queue)
        self.settings = options.settings(self.name)
        self.unique = options.unique
        self._track_started = options.track_started
        self._host = host
        self._function = _bound(function, self, self.name) if options.bind is True else function
        self.limit = options.limit(self.name, self._function, self._by_name)
        functools.update_wrapper(self, function, updated=())

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Run the function in this process, like any function."""
        return self._function(*args, **kwargs)

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call to the task's queue; return its handle once Redis has accepted it.

        Raises ValidationError (nothing was sent) if the arguments do not fit the function, and
        BrokerUnavailable (``maybe_sent`` tells whether it may have been sent) or QueueFull.
        """
        return self.start(args, kwargs, PLAIN)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]:
        """``delay(*args, **kwargs)`` with options; ``SendOptions`` says what each means.

        With ``task_id`` or ``idempotency_key`` a call may be repeated after ``maybe_sent``.

        Raises as ``delay`` does, ValidationError also for an option that cannot be used.
        """
        refuse_unknown(f"{self.name}: apply_async", options)
        return self.start(args, {} if kwargs is None else kwargs, options)

    def start(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> AsyncResult[R]:
        """Send one call. Raises as ``apply_async`` does."""
        sent = sending.envelope(self, args, kwargs, options)
        return AsyncResult(self._host.send(sent), self._host, sent.stream)

    @overload
    def s(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature: ...

    @overload
    def s(self: Task[Concatenate[Any, Q], R, C], /, *args: Q.args, **kwargs: Q.kwargs) -> Signature: ...

    def s(self, /, *args: Any, **kwargs: Any) -> Signature:
        """A call of this task to be sent later, for example by ``app.enqueue_many``.

        As a step of a workflow it gets what comes before it as its first argument, so it may lack that here.
        """
        return Signature(self, args, kwargs)

    def si(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """The same, taking nothing from what comes before it in a workflow."""
        return Signature(self, args, kwargs, immutable=True)

    def message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """The message of one call. Raises ValidationError naming each argument that does not fit."""
        body = self._arguments.encode(args, kwargs)
        running = RUNNING.get()
        return Message(
            message_id or new_id(), self.name, body, headers if running is None else followed(running, headers)
        )

    @property
    def request(self) -> Request:
        """The message that runs: its id, attempt, headers and so on; ``self.request`` in a task with ``bind=True``."""
        delivery = RUNNING.get()
        if delivery is None or delivery.message.name != self.name:
            delivery = NOWHERE  # called like any function, maybe by another task
        return Request(delivery, self.name, self._host.worker, self.arguments_in)

    def retry(
        self,
        exc: BaseException | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """End this run and have the same message run once more; ``raise self.retry(…)`` says it to readers.

        After ``countdown`` s, or at ``eta`` (an aware datetime); by the task's ``retry_backoff`` unless given. When it
        has been tried again ``max_retries`` times (unless given, the task's, 3 by default), the message fails of
        ``exc``: unless given, of the exception that is being handled. Needs no ``autoretry_for``. A task that was
        called like any function raises ``exc`` instead.

        Raises ``taskstream.Retry``, which ``except Exception`` does not catch; ValidationError for what cannot be.
        """
        request = self.request
        error = retry_of(f"{self.name}: retry", exc or sys.exc_info()[1], countdown, eta, max_retries)
        if request.called_directly:
            raise error.cause or error
        raise error from error.cause

    def fed_message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """``message`` of a call whose first argument is still to come, and is not in it. Raises as that does."""
        return Message(message_id or new_id(), self.name, self._arguments.encode_fed(args, kwargs), headers)

    def chained(self, first: Any, second: Any) -> chain:
        """``first | second``, of which one is a call of this task."""
        return chain(first, second)

    @property
    def host(self) -> Host:
        """The app that the task is of."""
        return self._host

    def call_digest(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The same text for calls of this task with the same arguments, however they are given.

        Raises ValidationError naming each argument that does not fit.
        """
        said = self._arguments.canonical(args, kwargs)
        return hashlib.sha256(self.name.encode() + b"\0" + said).hexdigest()[:32]

    def arguments_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments that came as plain JSON, as ``delay`` takes them.

        Raises ValidationError naming each that does not fit.
        """
        return self._arguments.load(args, kwargs)

    @property
    def parameters(self) -> Sequence[Parameter]:
        """What may be given, in the order of the signature. Raises ConfigError for annotations that cannot be used."""
        return self._arguments.parameters

    def progress(self, done: float, total: float | None = None, /, **info: Any) -> None:
        """Say how far this run has got: ``state`` is PROGRESS then, and ``info`` of the result has what is given here.

        ``done`` of ``total``, in whatever they count, and any JSON values by name. One round trip to Redis each time;
        while Redis is away it is not said. Does nothing in a task that was called like any function.

        Raises ValidationError for what JSON cannot carry.
        """
        said = progress_of(f"{self.name}: progress", done, total, info)
        delivery = RUNNING.get()
        if delivery is not None and delivery.message.name == self.name:
            self._host.unfinished.note(delivery, PROGRESS, self._host.worker, said)

    def _telling(self, run: Callable[[Delivery], object]) -> Callable[[Delivery], object]:
        """``run``, which says so when it begins."""

        def told(delivery: Delivery) -> object:
            self._host.unfinished.note(delivery, STARTED, self._host.worker)
            return run(delivery)

        return told

    def arguments_in(self, body: bytes) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments of a call, of their annotated types. Raises InvalidMessage."""
        return self._arguments.decode(body)

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """What a call may give."""
        return inspect.signature(self._function)

    def _by_name(self, delivery: Delivery) -> Mapping[str, object]:
        """The arguments of one of its messages by name, what it leaves out at its default. Raises InvalidMessage."""
        args, kwargs = self.arguments_in(delivery.message.body)
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    @functools.cached_property
    def _arguments(self) -> Arguments:
        # Made at the first use: annotations may name classes defined further down in the module.
        return Arguments(self._function, self.name)

    @functools.cached_property
    def returns(self) -> ReturnValue:
        """How the value travels. Raises ConfigError for annotations that cannot be resolved."""
        return ReturnValue(self._function, self.name)

    def handler(self) -> Handler:
        """What a worker runs for this task's messages.

        Raises ConfigError if its annotations cannot be resolved or are of a type that cannot travel.
        """
        decode, run_async = self._arguments.decode, self._host.run_async
        function = as_plain(self._function)

        def run(delivery: Delivery) -> object:
            args, kwargs = decode(delivery.message.body)
            value = function(*args, **kwargs)
            return run_async(value) if isinstance(value, types.CoroutineType) else value

        dump = self.returns.dump

        def successors(delivery: Delivery, value: object) -> tuple[Follower, ...]:
            headers = delivery.message.headers
            if not headers or THEN_HEADER not in headers:
                return ()
            return after(delivery.message, lambda: dump(value))

        return Handler(
            name=self.name,
            run=self._telling(run) if self._track_started else run,
            app=self._host.name,
            version="-",
            log_done_at=logging.DEBUG,
            settings=self.settings,
            dump=dump,
            successors=successors,
            middleware=(*self._host.middleware, RETRIES),
            limit=self.limit,
        )

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def check_function(function: object, name: str | None) -> None:
    """Raise ConfigError for what cannot be made a task, ``name`` given or not."""
    if isinstance(function, Task):
        raise ConfigError(f"{function.name} is a task already: put @app.task right above the function, once")
    if not callable(function):
        raise ConfigError(f"@task needs a function, not {function!r}; options go by name: @app.task(queue=…)")
    if name is None and not isinstance(getattr(function, "__name__", None), str):
        raise ConfigError(f"{function!r} has no name of its own: give one with name=")
    if isinstance(function, type):
        raise ConfigError(f"{function.__qualname__} is a class, which is no task: register a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(
            f"{name_of(function)} is a generator, which is no task: return a list, or send a call per item"
        )
    if name is None and cast(Any, function).__name__ == "<lambda>":
        raise ConfigError("a lambda has no name of its own: give one with name=")


def _bound(function: Callable[..., Any], task: object, name: str) -> Callable[..., Any]:
    """``function`` with the task as its first argument."""
    bound = types.MethodType(function, task)
    try:
        inspect.signature(bound)
    except ValueError:
        raise ConfigError(
            f"task {name}: bind=True gives the task as first argument, and {name_of(function)} takes none: add self"
        ) from None
    return bound
