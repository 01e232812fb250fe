"""What a process forked by a task may do: go on where it forked, and nothing of the worker's work.

A fork copies every greenlet, the hub that switches between them, the pipes to the supervisor and its table. Without
care the copy would run messages, too. So the forking greenlet gets a hub of its own and all others stay frozen;
where the handler returns in the copy, the copy ends. ``subprocess`` is not concerned: it runs another program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import gevent
import gevent.hub
import greenlet
from gevent._hub_local import get_hub_if_exists, set_hub, set_loop

LOOK_S = 0.1
"""How soon a copy ends after the greenlet that forked has."""

_kept: list[Any] = []
"""What must never be collected in the copy: an abandoned greenlet would be ended, which runs its code."""


class _State:
    """Whether this process is a copy; an attribute, because the hot path looks at it."""

    copied = False


state = _State()


def guard(fds: Sequence[int]) -> None:
    """From now on a fork of this process is no worker; ``fds`` are descriptors that it must not use."""

    def disown() -> None:
        _disown(fds)

    os.register_at_fork(after_in_child=disown)


def leave(error: BaseException | None = None) -> NoReturn:
    """End the copy: what its parent had to do is none of its business. ``error`` is what ended its code."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
    with contextlib.suppress(BaseException):
        if status and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def leave_if_copied() -> None:
    """End this process if it is a copy."""
    if state.copied:
        leave()


def _disown(fds: Sequence[int]) -> None:
    if not state.copied:
        state.copied = True
        # Not closed: objects that still know the numbers would close what takes their place.
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in fds:
            with contextlib.suppress(OSError):
                os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)
        # Only the worker itself leaves it to its supervisor; Process.terminate() must end its process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    hub = get_hub_if_exists()
    if hub is None:
        return
    _kept.append(hub)
    # Its watchers and callbacks are those of all greenlets. The default loop again: only that one sees children end.
    hub.loop.destroy()
    set_loop(None)  # type: ignore[arg-type]
    set_hub(None)  # type: ignore[arg-type]
    current = greenlet.getcurrent()
    if current.parent is None:
        _kept.append(gevent.hub.get_hub())
        return
    if isinstance(current, gevent.Greenlet):
        current.unlink_all()  # whoever waits for it, waits in the original
    # A greenlet that ends goes on in its parent, and that was the old hub, whose loop is gone.
    end = greenlet.greenlet(_go_on, parent=hub)
    _kept.append(end)
    end.switch(current)


def _go_on(current: greenlet.greenlet) -> None:
    """The last greenlet of the copy: the parent of its hub, which is the parent of the one that forked."""
    try:
        current.parent = gevent.hub.get_hub()
        gevent.spawn(_end_with, current)
        current.switch()
    except BaseException as error:
        leave(error)
    leave()


def _end_with(current: greenlet.greenlet) -> None:
    # Its own end would be told by callbacks of the loop it was made for.
    while not current.dead:
        gevent.sleep(LOOK_S)
    leave()
