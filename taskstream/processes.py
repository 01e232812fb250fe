"""Child processes that do not outlive their parent. Never decides what to run or when to restart it.

Nothing else tells a child that its parent was killed with SIGKILL, so each starts as ``taskstream/launcher.py``, which
arranges for that and then becomes the program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LAUNCHER = Path(__file__).with_name("launcher.py")
PARENT_DEATH = "signal" if sys.platform == "linux" else "watch"
"""How a child learns that its parent died; see the launcher."""


def spawn(
    argv: Sequence[str],
    *,
    own_group: bool,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    pass_fds: Sequence[int] = (),
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start ``argv``, which gets ``death_signal`` when this process ends, however it ends.

    ``own_group`` gives it a process group of its own, so that a Ctrl-C in the terminal reaches only this process,
    which then stops the child in its own order. ``env`` replaces the environment, ``output`` takes its standard
    output and error, ``pass_fds`` are descriptors it inherits. Standard input is empty.

    Linux ties the signal to the *thread* that starts the child: call this from one that lives as long as the
    process (the main thread). Elsewhere it also comes when the object returned is dropped while the child runs.
    Raises OSError if no process can be started.
    """
    ends: tuple[int, ...] = () if PARENT_DEATH == "signal" else os.pipe()
    starter = ends[0] if ends else os.getpid()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), PARENT_DEATH, str(starter), str(int(death_signal)), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            cwd=cwd,
            process_group=0 if own_group else None,
            pass_fds=(*pass_fds, *ends[:1]),
        )
    except BaseException:
        for end in ends:
            os.close(end)
        raise
    if ends:
        os.close(ends[0])
        weakref.finalize(process, os.close, ends[1])
    return process


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
