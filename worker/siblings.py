"""Several worker processes from one: it loads the engine once, forks one for each, and ends.

They share the memory of what was loaded, and the CPU of loading it. The one that forks has no hub, no second thread
and no connection yet, and none of the application's code: each process imports that by itself. When it has ended, its
children are the supervisor's, which adopts them by being their "subreaper" meanwhile (prctl(2)). Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def adopt(wanted: bool) -> bool:
    """Become, or no longer be, the parent of what a dead child leaves behind; whether that is possible here."""
    if sys.platform != "linux":
        return False
    import ctypes  # only a pool of several processes needs it

    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0)
    return False


class Forked:
    """One of several, as its supervisor sees it, with what it needs of ``subprocess.Popen``.

    ``starter`` is the process that forks them all; ``lost()`` says whether this one can report no more. Until it has
    told its own id, ``pid`` is the starter's.
    """

    def __init__(self, starter: subprocess.Popen[bytes], lost: Callable[[], bool]) -> None:
        self.pid = starter.pid
        self.returncode: int | None = None
        self._starter = starter
        self._lost = lost
        self._born = False

    def born(self, pid: int) -> None:
        """It told its process id. Whatever it tells later of that is nonsense."""
        if not self._born:
            self._born = True
            self.pid = pid

    @property
    def starting(self) -> bool:
        """Whether the starter has not been seen to end: until then this one is no child of the supervisor."""
        return self._starter.returncode is None

    def poll(self) -> int | None:
        """Its exit status once it has ended, as ``Popen.poll()``; the end of the starter is seen here, too."""
        if self.returncode is not None or self._starter.poll() is None:
            return self.returncode
        if self._born:
            self._reap(os.WNOHANG)
        elif self._lost():
            self.returncode = self._starter.returncode or -signal.SIGKILL  # it was never forked, or had no time to tell
        return self.returncode

    def kill(self) -> None:
        """SIGKILL; before it is born, to the starter."""
        if not self._born:
            self._starter.kill()
        elif self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Until it has ended, or can be born no more."""
        self._starter.wait()
        if self._born and self.returncode is None:
            self._reap(0)

    def _reap(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            self.returncode = -signal.SIGKILL  # somebody else has seen its end, and how it was
            return
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
