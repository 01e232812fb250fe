"""The bridge to ``async def``: one event loop in a native thread, for callers that are greenlets or threads.

The caller blocks, in its own way, until its coroutine has ended; many callers share the loop. How a native
thread is started and how a caller waits is the Backend's business: gevent's comes from the worker, threads
are served by ``threading_backend()``. Both ways go through deques and one wake-up per burst, because waking
the other side costs more than everything else here.

The loop is uvloop's. The standard library's goes through the selectors module and hangs in a thread of its
own once gevent has patched that; it serves where nothing is patched and uvloop is missing.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

from taskstream.errors import ConfigError, TaskstreamError
from taskstream.logs import engine_logger
from taskstream.native_pool import NativePool

_uvloop: Any
try:
    _uvloop = importlib.import_module("uvloop")
except ImportError:  # it does not exist for Windows
    _uvloop = None

T = TypeVar("T")

CANCEL_WAIT_S = 2.0
"""How long an interrupted caller waits for its cancelled coroutine to clean up, before it is abandoned."""

_log = engine_logger("aio")


class BridgeClosed(TaskstreamError):
    """The event loop has ended or could not start; the coroutine did not run, or not to its end."""


class CoroutineCancelled(TaskstreamError):
    """The coroutine ended with asyncio.CancelledError although nobody had interrupted its caller."""


class Waiter(Protocol):
    """What one caller waits on, once."""

    def wait(self) -> None:
        """Block the caller until the waiter is woken. May raise what is thrown into the caller."""

    def wait_for(self, seconds: float) -> bool:
        """The same, for ``seconds`` at most; whether it was woken."""


class Backend(Protocol):
    """How to start a native thread and how to wait and wake beside it."""

    patched: bool
    """Whether the standard library's blocking calls are patched in this process."""

    def start_thread(self, target: Callable[[], None]) -> None:
        """Run ``target`` in a new native thread that does not keep the process alive."""

    def waiter(self) -> Waiter:
        """A fresh waiter for the calling greenlet or thread."""

    def wake(self, waiters: Sequence[Any]) -> None:
        """Wake callers. Called from the loop's thread."""


class LockWaiter:
    """A waiter of one thread."""

    __slots__ = ("_lock",)

    def __init__(self, allocate_lock: Callable[[], threading.Lock] = threading.Lock) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wait(self) -> None:
        """See Waiter."""
        self._lock.acquire()

    def wait_for(self, seconds: float) -> bool:
        """See Waiter."""
        return self._lock.acquire(timeout=seconds)

    def wake(self) -> None:
        """Let the waiting thread go on; called once."""
        self._lock.release()


class _ThreadingBackend:
    patched = False

    def start_thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="taskstream-aio", daemon=True).start()

    def waiter(self) -> LockWaiter:
        return LockWaiter()

    def wake(self, waiters: Sequence[LockWaiter]) -> None:
        for waiter in waiters:
            waiter.wake()


def threading_backend() -> Backend:
    """For processes of plain threads (web servers, scripts)."""
    return _ThreadingBackend()


class _Job:
    """One coroutine on its way through the bridge."""

    __slots__ = ("abandoned", "cancelled", "context", "coroutine", "error", "task", "value", "waiter")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waiter: Waiter) -> None:
        self.coroutine = coroutine
        self.context = contextvars.copy_context()
        self.waiter = waiter
        self.task: asyncio.Task[None] | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.abandoned = False


class Bridge:
    """Runs coroutines for callers that block. Starts its thread with the first one; thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._start_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = False
        self._closed: str | None = None  # why nothing runs any more
        self._ended = backend.waiter()
        self._pool = NativePool(backend.start_thread)
        self._inbox: deque[_Job] = deque()
        self._inbox_announced = False
        self._outbox: list[Waiter] = []
        self._running: set[_Job] = set()

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, in a copy of the caller's context; return its value.

        Raises what the coroutine raises, with its traceback; BridgeClosed where the loop cannot run it. What
        is thrown into the waiting caller cancels the coroutine and is raised once that has ended, or after
        ``CANCEL_WAIT_S``.
        """
        loop = self._loop
        if loop is not None and asyncio._get_running_loop() is loop:
            coro.close()
            raise RuntimeError("blocking on a coroutine inside the event loop would never end: await it instead")
        if not self._started:
            self._start()
        job = _Job(coro, self._backend.waiter())
        self._inbox.append(job)
        self._announce()
        try:
            job.waiter.wait()
        except BaseException:
            self._give_up(job)
            raise
        error = job.error
        if error is not None:
            job.error = None
            try:
                raise error
            except asyncio.CancelledError as cancelled:
                raise CoroutineCancelled(f"{_name(coro)} was cancelled") from cancelled
            finally:
                del error, job  # no cycle through the traceback's frames
        return cast(T, job.value)

    def close(self, timeout: float) -> None:
        """Cancel what runs, end the loop and its thread; returns after ``timeout`` seconds at the latest.

        Callers that still wait get BridgeClosed; so does everyone who comes later.
        """
        with self._start_lock:
            first = self._closed is None
            self._closed = self._closed or "it was closed"
            running = self._started
            self._started = True  # nobody starts it now
        if not running or not first:
            self._fail_rest()
            return
        deadline = time.monotonic() + timeout
        while self._loop is None and time.monotonic() < deadline:
            if self._ended.wait_for(0.005):  # it is just starting
                return
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(lambda: loop.create_task(self._shut_down(timeout / 2)))
            except RuntimeError:  # it ended by itself
                return
        if not self._ended.wait_for(max(0.0, deadline - time.monotonic())):
            _log.warning(
                f"the event loop did not end within {timeout:g} s (a coroutine blocks it); its thread is abandoned"
            )

    # -- the callers' side -----------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._start_lock:
            if not self._started:
                self._started = True
                self._backend.start_thread(self._serve)

    def _announce(self) -> None:
        """Tell the loop that the inbox has something, once per burst."""
        if not self._inbox_announced:
            self._inbox_announced = True
            loop = self._loop
            if loop is not None:  # else: the loop looks when it starts
                try:
                    loop.call_soon_threadsafe(self._take_in)
                except RuntimeError:  # closed
                    self._fail_rest()
        if self._closed is not None:
            self._fail_rest()

    def _give_up(self, job: _Job) -> None:
        """The caller was interrupted: cancel, and wait a bounded time for the coroutine's clean-up."""
        job.cancelled = True
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._cancel, job)
        except RuntimeError:  # the loop is closed, and with it the coroutine
            return
        if not job.waiter.wait_for(CANCEL_WAIT_S):
            job.abandoned = True
            _log.warning(
                f"{_name(job.coroutine)} did not end within {CANCEL_WAIT_S:g} s after it was cancelled; "
                "it is left to itself"
            )

    def _fail_rest(self) -> None:
        """Nothing runs any more: give callers that nobody will serve their error. Any thread."""
        while True:
            try:
                job = self._inbox.popleft()
            except IndexError:
                return
            self._fail(job)

    def _fail(self, job: _Job) -> None:
        job.coroutine.close()
        job.error = BridgeClosed(f"the event loop for async functions does not run: {self._closed}")
        self._backend.wake([job.waiter])

    # -- the loop's side -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            loop = _new_loop(self._backend.patched, self._pool)
        except BaseException as error:
            self._closed = self._closed or f"it could not start ({error})"
            self._fail_rest()
            self._backend.wake([self._ended])
            return
        try:
            asyncio.set_event_loop(loop)
            self._loop = loop
            loop.call_soon(self._take_in)
            while self._closed is None:
                try:
                    loop.run_forever()  # returns where a coroutine called stop(): go on
                except (KeyboardInterrupt, SystemExit) as error:  # out of a bare callback: not ours to obey
                    _log.error(f"a callback in the event loop raised {type(error).__name__}; it is ignored", exc=error)
        except BaseException as error:
            self._closed = self._closed or f"it ended ({type(error).__name__}: {error})"
            _log.error(f"the event loop for async functions ended: {error}", exc=error)
        finally:
            self._closed = self._closed or "it ended"
            for job in list(self._running):
                if job.error is None:
                    job.error = BridgeClosed(f"the event loop for async functions does not run: {self._closed}")
                self._outbox.append(job.waiter)
            self._running.clear()
            self._send_out()
            self._pool.close()
            asyncio.set_event_loop(None)
            loop.close()
            self._fail_rest()
            self._backend.wake([self._ended])

    def _take_in(self) -> None:
        self._inbox_announced = False
        loop = self._loop
        assert loop is not None
        inbox, running = self._inbox, self._running
        while inbox:
            try:
                job = inbox.popleft()
            except IndexError:  # failed by a caller that saw the end first
                return
            if self._closed is not None:
                self._fail(job)
            elif job.cancelled:
                job.coroutine.close()
                self._hand_back(job)
            else:
                running.add(job)
                job.task = loop.create_task(self._carry(job), context=job.context)

    async def _carry(self, job: _Job) -> None:
        # In place of a done callback, which would cost the loop another round per coroutine.
        try:
            job.value = await job.coroutine
        except BaseException as error:  # also SystemExit: it is for the caller, not for this thread
            job.error = error
            if job.abandoned and not isinstance(error, asyncio.CancelledError):
                _log.warning(f"{_name(job.coroutine)}, left to itself, failed", exc=error)
            del error
        if job in self._running:
            self._running.discard(job)
            if self._closed is not None and isinstance(job.error, asyncio.CancelledError):
                job.error = BridgeClosed(f"{_name(job.coroutine)} was cancelled: {self._closed}")
            self._hand_back(job)

    def _hand_back(self, job: _Job) -> None:
        self._outbox.append(job.waiter)
        if len(self._outbox) == 1:
            assert self._loop is not None
            self._loop.call_soon(self._send_out)

    def _send_out(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox:
            self._backend.wake(outbox)

    def _cancel(self, job: _Job) -> None:
        if job.task is not None:
            job.task.cancel()

    async def _shut_down(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        await loop.shutdown_asyncgens()
        loop.stop()


def _new_loop(patched: bool, pool: NativePool) -> asyncio.AbstractEventLoop:
    if _uvloop is None:
        if patched:
            raise ConfigError("async functions in a worker need the package uvloop: pip install uvloop")
        return asyncio.new_event_loop()

    class Loop(_uvloop.Loop):  # type: ignore[misc]
        """``asyncio.to_thread`` in native threads: a patched executor's threads are greenlets nobody runs."""

        def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
            if executor is not None:
                return super().run_in_executor(executor, func, *args)
            return pool.submit(self, func, *args)

    return cast(asyncio.AbstractEventLoop, Loop())


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return f"coroutine {getattr(coroutine, '__qualname__', type(coroutine).__name__)!r}"
