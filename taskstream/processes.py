"""Child processes that do not outlive their parent. Never decides what to run or when to restart it.

On Linux a child gets a parent-death signal (prctl(2), PR_SET_PDEATHSIG), because nothing else tells it that its
parent was killed with SIGKILL. It is set after the fork by this very file, run as a tiny program that then becomes
the real one: ``preexec_fn`` would run Python between fork and exec, which may deadlock beside threads. Elsewhere
there is no such signal and children rely on being stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
CANNOT_EXECUTE = 127
"""Exit status of a child whose program could not be executed, as of a shell."""


def spawn(
    argv: Sequence[str],
    *,
    own_group: bool,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start ``argv``, which gets ``death_signal`` when this process ends, however it ends.

    ``own_group`` gives it a process group of its own, so that a Ctrl-C in the terminal reaches only this process,
    which then stops the child in its own order. ``env`` replaces the environment, ``output`` takes its standard
    output and error. Standard input is empty.

    Linux ties the signal to the *thread* that starts the child: call this from one that lives as long as the
    process (the main thread). Raises OSError if no process can be started.
    """
    if sys.platform == "linux":
        argv = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), *argv]
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=None if env is None else dict(env),
        cwd=cwd,
        process_group=0 if own_group else None,
    )


def signal_group(group: int, signum: signal.Signals) -> None:
    """Send ``signum`` to every process of a group (the id of the child that leads it); no matter if none is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        os.killpg(group, signum)


def group_exists(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return sys.platform == "linux"
    return True


def stop(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Ask a child with its own group to stop (SIGTERM), kill what is left of the group after ``timeout`` seconds.

    Returns its exit status (negative: the signal that ended it).
    """
    process.terminate()
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        signal_group(process.pid, signal.SIGKILL)
        return process.wait()
    # What the child itself started and left behind, if anything.
    signal_group(process.pid, signal.SIGKILL)
    return status


def _become(parent: int, death_signal: int, argv: Sequence[str]) -> None:
    """Ask for the parent-death signal, then turn into ``argv``. Runs in the child only."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        print(f"taskstream: no parent-death signal: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
    if os.getppid() != parent:
        return  # It died before the signal was armed.
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        print(f"taskstream: {argv[0]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(CANNOT_EXECUTE) from None


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
