"""Becomes the embedded server's process, after arranging that it ends when its starter does.

Run as a script (``python -I -S embedded_launcher.py MODE STARTER_PID SERVER [ARGUMENT…]``), never imported by
the package: it must stay quick and free of dependencies. Its process turns into the server by exec, so the
starter's child is the server itself. MODE is

- ``signal``: Linux sends this process SIGTERM when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG;
  it survives exec). Done here and not in a ``preexec_fn``, which may deadlock in a program with threads.
- ``watch``: elsewhere, a small child watches a pipe, which is standard input here and closes when the starter
  dies, and then sends SIGTERM.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
WATCH_INTERVAL_S = 0.5


def die_with(starter_pid: int) -> None:
    """Ask Linux for SIGTERM at the starter's death; exits if that has happened already."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != starter_pid:
        sys.exit("the starter of the embedded server is gone")


def fork_watcher() -> None:
    """Leave a child behind that ends this process once standard input reports its end."""
    server_pid = os.getpid()
    if os.fork() != 0:
        return
    os.closerange(3, 256)  # among them the lock, which only the starter and the server hold
    while os.getppid() == server_pid:
        readable, _, _ = select.select([0], [], [], WATCH_INTERVAL_S)
        if readable and not os.read(0, 1):
            os.kill(server_pid, signal.SIGTERM)
            break
    os._exit(0)


def main() -> None:
    """See the module's docstring."""
    mode, starter_pid, server, *arguments = sys.argv[1:]
    if mode == "signal":
        die_with(int(starter_pid))
    else:
        fork_watcher()
    os.execv(server, [server, *arguments])


if __name__ == "__main__":
    main()
