"""The app: a name, a broker, a result store and its tasks. Connects on first use, anew in every process.

Sends messages and finds results; what a worker does with a message is no business of this module.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskstream.app import included, registry, revoking, sending
from taskstream.app.outcomes import Outcomes
from taskstream.app.registry import Registry
from taskstream.app.remote import RemoteTask
from taskstream.app.result import AsyncResult as Handle
from taskstream.app.signature import Signature, envelopes
from taskstream.app.told import EnqueueHooks
from taskstream.app.unfinished import Unfinished
from taskstream.app.waiter import Waiter
from taskstream.arguments import decode_json
from taskstream.broker import Broker, Envelope
from taskstream.connection import PRODUCER, open_pool
from taskstream.continuation import gather_handler
from taskstream.durations import parse_duration
from taskstream.errors import ConfigError, ResultUnavailable, ValidationError
from taskstream.handler import DEAD_RETENTION_S, QUEUE_GROUP, Subscription
from taskstream.keys import GATHER, check_name
from taskstream.message import MESSAGE_ID
from taskstream.middleware import Middleware, checked
from taskstream.results import open_store
from taskstream.results.base import Outcome, ResultStore
from taskstream.results.store import BROKERS_OWN, DEFAULT_RETENTION_S, FSYNC_POLICIES, check_results, check_url
from taskstream.running import RUNNING, note_published

if TYPE_CHECKING:
    from taskstream.outbox import Outbox


class Taskstream(Registry):
    """An app of tasks.

    ``name`` begins its tasks' names and is their default queue. ``broker`` is a URL: ``redis://``,
    ``rediss://`` (TLS), ``unix://`` or ``sentinel://``. ``results`` says where outcomes are kept:
    ``file://PATH``, ``json://PATH`` (a relative path is relative to the folder of the module that makes the
    app) or ``redis://…``, or is a ResultStore of your own; None keeps none. ``dead_retention`` is how long dead
    letters are kept, ``result_retention`` how long results are: seconds, or text such as ``"12h"`` or ``"7d"``.
    ``result_fsync`` says when a result counts as written: ``commit``, once it is on the disk, or ``checkpoint``,
    once it survives the end of any process.

    What the environment says goes before what the code says: ``TASKSTREAM_BROKER``, or the running
    ``taskstream dev`` of the working folder, is the broker; ``TASKSTREAM_RESULTS`` the result store (a relative
    path is then relative to the working folder). Thread-safe.

    ``max_length``: a queue with so many entries, waiting or in the hands of workers, takes no more: QueueFull.
    ``retention``: how long what is done stays in the queues, for ``taskstream replay``; None: not at all. Not both.

    ``outbox``: ``file://FOLDER``, a folder of this host (relative like results) whose file keeps messages while Redis
    takes none, and from which they are sent, in order and once, when it does again.

    ``middleware``: hooks around sending and running (``taskstream.Middleware``), called in this order.

    ``include``: names of the modules with its tasks, imported when a worker or a command loads the app (``load``).

    Raises ConfigError for a name, an option or a URL that cannot be used; for one of the environment at its first use.
    """

    def __init__(
        self,
        name: str,
        broker: str | None = None,
        results: str | ResultStore | None = None,
        *,
        dead_retention: float | str = DEAD_RETENTION_S,
        result_retention: float | str = DEFAULT_RETENTION_S,
        result_fsync: str = "commit",
        max_length: int | None = None,
        retention: float | str | None = None,
        outbox: str | None = None,
        middleware: Iterable[Middleware] = (),
        include: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for option, url in (("broker", broker), ("outbox", outbox)):
            if url is not None and not isinstance(url, str):
                raise ConfigError(f"Taskstream({name!r}): {option}={url!r} is not a URL")
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise ConfigError(f"Taskstream({name!r}): max_length={max_length!r} is not a whole number from 1 on")
        self.name: str = check_name("app", name)
        self.max_length = max_length
        self._dead_retention = _duration(name, "dead_retention", dead_retention)
        self._retention = 0.0 if retention is None else _duration(name, "retention", retention)
        if self._retention and max_length is not None:
            raise ConfigError(
                f"Taskstream({name!r}): max_length counts what retention keeps in a queue, too: leave one of them out"
            )
        self._result_retention = _duration(name, "result_retention", result_retention)
        if result_fsync not in FSYNC_POLICIES:
            raise ConfigError(
                f"Taskstream({name!r}): result_fsync={result_fsync!r} cannot be used: "
                f"give one of {', '.join(FSYNC_POLICIES)}"
            )
        self._result_fsync = result_fsync
        # Neither connects. What the environment replaces is not used at all.
        if broker is not None and not os.environ.get("TASKSTREAM_BROKER"):
            open_pool(broker, PRODUCER).disconnect()
        self._own_results = check_results(results)
        if isinstance(self._own_results, str) and not os.environ.get("TASKSTREAM_RESULTS"):
            check_url(self._own_results)
        self._broker_url = broker
        self._results_base = _folder_of_caller()
        self._broker_override: str | None = None
        self._results_override: str | None = None
        self._outbox: Outbox | None = None
        if outbox is not None:
            from taskstream.outbox import Outbox, outbox_path  # a database, for those who want one

            self._outbox = Outbox(outbox_path(outbox, self._results_base, self.name), lambda: self.broker)
        self.middleware = checked(f"Taskstream({name!r})", middleware)
        self._include = included.checked_names(f"Taskstream({name!r})", include)
        hooks = EnqueueHooks(self.middleware)
        self._hooks = hooks if hooks.any else None
        if self._hooks is not None:
            # Put in the way here, so that an app without hooks is not even asked at each call.
            self.send = self._hooks.around(self.send)  # type: ignore[method-assign,assignment]
        self._run_async: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
        self.worker = ""
        self.unfinished = Unfinished(lambda: self.broker)
        self.start_afresh()
        registry.enlist(self)

    def start_afresh(self) -> None:
        """Forget connections; those of a parent process are its own, and are not closed here."""
        self._lock = threading.RLock()
        self._broker: Broker | None = None
        self._store: ResultStore | None = None
        self._store_open = False
        self._waiter: Waiter | None = None
        self._outcomes: Outcomes | None = None
        if self._outbox is not None:
            self._outbox.start_afresh()

    def __repr__(self) -> str:
        return f"<Taskstream {self.name}>"

    # Sending

    def send(self, envelope: Envelope) -> str:
        """Put one message on its queue; return the id it is there under, which may be that of an earlier one.

        One XADD where nothing but the message is said. Raises BrokerUnavailable or QueueFull.
        """
        found = self._send(envelope)
        if RUNNING.get() is not None:
            note_published([found])
        if envelope.delay_ms is not None or envelope.due_ms is not None:
            self.unfinished.note_scheduled([(found, envelope)])
        return found

    def _send(self, envelope: Envelope) -> str:
        if self.max_length is not None:
            envelope = envelope._replace(max_length=self.max_length)
        if self._outbox is not None:
            ids, error = self._outbox.try_many([envelope])
            if error is not None:
                raise error
            return ids[0] or envelope.message.id
        return (self._broker or self.broker).send(envelope)

    def enqueue_many(self, signatures: Iterable[Signature]) -> list[Handle[Any]]:
        """Send many calls, in order, in one round trip per 500 (100 with a ``max_length``); return their handles.

        All arguments are checked before the first call is sent: ValidationError means that none was.
        BrokerUnavailable and QueueFull have the handles of those that were sent for certain in ``sent``. After
        QueueFull these are the first ones, and none of the others was sent; with ``maybe_sent`` some of the others
        may have been: calls that carry a ``task_id`` or ``idempotency_key`` (``Signature.set``) can be sent again.
        """
        return self.send_many(envelopes(signatures))

    def send_many(self, items: Sequence[Envelope]) -> list[Handle[Any]]:
        """The same for messages that are made already."""
        if self._hooks is not None:
            items = self._hooks.before_all(items)
        ids, error = sending.send_in_batches(self._outbox or self.broker, items, self.max_length)
        if self._hooks is not None:
            self._hooks.after_all(items, ids)
        certain = zip(ids, items, strict=False)
        note_published(sent for sent in ids if sent is not None)
        self.unfinished.note_scheduled(zip(ids, items, strict=False))
        handles: list[Handle[Any]] = [Handle(sent, self, item.stream) for sent, item in certain if sent is not None]
        if error is not None:
            raise sending.with_sent(error, handles, len(items))
        return handles

    def send_task(
        self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Handle[Any]:
        """Send a call of a task by its name, here without its code; ``options`` are those of ``apply_async``.

        It goes to ``queue``, to the app's own unless given. A task that this app has is sent as its ``apply_async``
        does it: to the task's queue, its arguments checked. Arguments of any other have to be JSON values, and whether
        they fit, and whether there is such a task, only the worker finds out.

        Raises as ``apply_async`` does.
        """
        task = self._tasks.get(name) if isinstance(name, str) else None
        call = Signature(task or RemoteTask(self, name), args, {} if kwargs is None else kwargs)  # type: ignore[arg-type]
        return call.apply_async(**options)

    def AsyncResult(self, message_id: str) -> Handle[Any]:
        """The handle of a message sent before, here or in another process. Raises ValidationError for what is no id."""
        if not isinstance(message_id, str) or not MESSAGE_ID.fullmatch(message_id):
            raise ValidationError(f"AsyncResult: {message_id!r:.200} is no id of a message: give the id of a result")
        return Handle(message_id, self)

    def revoke(
        self,
        ids: str | Handle[Any] | Iterable[str | Handle[Any]],
        *,
        terminate: bool = False,
        queue: str | None = None,
    ) -> None:
        """Have messages not run any more: an id, a handle, or many of them. They end as REVOKED when their turn comes.

        What runs goes on, unless ``terminate``: ``taskstream.Revoked`` is thrown into it, as a time limit would be.
        Workers that start later know, too: an id is remembered for a day, of a scheduled message for a day beyond its
        time. ``queue`` is where the messages went; where neither it nor a handle says so, any queue of the app's tasks.

        Raises ValidationError for what is no id, BrokerUnavailable (it may be repeated).
        """
        revoking.revoke(self.broker, revoking.by_queue(ids, queue, self.queues() or (self.name,)), terminate)

    # Connections

    def override(self, broker_url: str | None = None, results_url: str | None = None) -> None:
        """Use these URLs whatever code and environment say; None changes nothing. For commands, before first use.

        A relative path in ``results_url`` is relative to the working folder.
        """
        with self._lock:
            self._broker_override = broker_url or self._broker_override
            self._results_override = results_url or self._results_override

    @property
    def broker(self) -> Broker:
        """The broker of this process. Raises ConfigError if there is no URL or one that cannot be used."""
        with self._lock:
            if self._broker is None:
                self._broker = Broker(self._find_broker())
            return self._broker

    def _find_broker(self) -> str:
        found = self._broker_override or os.environ.get("TASKSTREAM_BROKER")
        if not found and Path(".taskstream").is_dir():
            from taskstream.embedded import running_broker_url  # only where a `taskstream dev` has been

            found = running_broker_url(Path.cwd())
        found = found or self._broker_url
        if not found:
            raise ConfigError(
                f"app {self.name} has no broker: give one with Taskstream({self.name!r}, broker='redis://…') "
                "or in TASKSTREAM_BROKER, or start `taskstream dev` in this folder"
            )
        return found

    def results_named(self) -> tuple[str | ResultStore | None, Path]:
        """What says where results are kept, the environment before the code, and where a relative folder starts."""
        elsewhere = self._results_override or os.environ.get("TASKSTREAM_RESULTS")
        return (elsewhere, Path.cwd()) if elsewhere else (self._own_results, self._results_base)

    @property
    def results(self) -> ResultStore | None:
        """The result store of this process, None if none is kept. Raises ConfigError for a URL that cannot be used."""
        with self._lock:
            if not self._store_open:
                found, base = self.results_named()
                if found is None or isinstance(found, str):
                    own = self.broker.url if found == BROKERS_OWN else None
                    kept = self._result_retention
                    found = open_store(found, base=base, retention=kept, fsync=self._result_fsync, broker_url=own)
                self._store = found
                self._store_open = True
            return self._store

    @property
    def outcomes(self) -> Outcomes:
        """Finds and awaits outcomes. Raises ResultUnavailable if no results are kept."""
        found = self._outcomes
        if found is None:
            with self._lock:
                store = self.results
                if store is None:
                    raise ResultUnavailable(
                        f"app {self.name} keeps no results: give it a store, as in "
                        f"Taskstream({self.name!r}, results='file://results')"
                    )
                if self._outcomes is None:
                    self._waiter = Waiter(self.broker)
                    self._outcomes = Outcomes(store, self._waiter, self.broker)
                found = self._outcomes
        return found

    @property
    def outbox(self) -> Outbox | None:
        """What keeps messages while Redis takes none; None without one."""
        return self._outbox

    def value_of(self, outcome: Outcome) -> Any:
        """The value of a success, as its task's return annotation says; plain JSON for a task unknown here."""
        task = self._tasks.get(outcome.handler)
        return decode_json(outcome.value) if task is None else task.returns.load(outcome.value)

    def close(self) -> None:
        """Close connections and files; the next use opens them again. An outbox sends what it can within 2 s."""
        if self._outbox is not None:
            self._outbox.close()
        with self._lock:
            broker, store, waiter = self._broker, self._store, self._waiter
            self._broker = self._store = self._waiter = self._outcomes = None
            self._store_open = False
        for one in (waiter, broker, store):
            if one is not None:
                one.close()

    # For workers

    def load(self) -> None:
        """Import the modules of ``include``, once the one that makes the app is imported; what was is not again.

        Raises ConfigError naming the module that cannot be, with the place in its code where importing it failed.
        """
        included.import_all(f"app {self.name}", self._include)

    def bind(self, run_async: Callable[[Coroutine[Any, Any, Any]], Any], worker: str = "") -> None:
        """Let ``async def`` tasks run through ``run_async``, which blocks until a coroutine has ended.

        ``worker`` is the name of this process.
        """
        self._run_async = run_async
        self.worker = worker

    def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end and return its value."""
        return self._run_async(coroutine)

    def subscriptions(self, queues: Sequence[str] | None = None) -> list[Subscription]:
        """What a pool consumes: ``queues``, or every queue the tasks go to. Any task may come by any of them.

        Raises ConfigError if there are no tasks, or if one of them cannot be run.
        """
        if not self._tasks:
            raise ConfigError(f"app {self.name} has no tasks: register functions with @app.task")
        handlers = {name: task.handler() for name, task in self._tasks.items()}
        handlers[GATHER] = gather_handler(self.name)
        return [
            Subscription(
                label=queue,
                stream=check_name("queue", queue),
                group=QUEUE_GROUP,
                handlers=handlers,
                dead_retention=self._dead_retention,
                retention=self._retention,
            )
            for queue in dict.fromkeys(self.queues() if queues is None else queues)
        ]


def _after_fork() -> None:
    for app in registry.apps():
        if isinstance(app, Taskstream):
            app.start_afresh()


os.register_at_fork(after_in_child=_after_fork)


def _duration(app: str, option: str, value: float | str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ConfigError(f"Taskstream({app!r}): {option}={value!r} cannot be used: give {error}") from None


def _folder_of_caller() -> Path:
    """Folder of the module that is making an app; the working folder where that has no file (a prompt)."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return Path(file).resolve().parent if isinstance(file, str) else Path.cwd()
