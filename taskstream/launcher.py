"""Becomes another program, after arranging that it ends when its starter does. Never decides which program.

``taskstream.processes`` runs this file as a script (``python -I -S launcher.py MODE STARTER SIGNAL PROGRAM…``); it
must stay quick and import nothing of the package. It turns into the program by exec, so the starter's child is the
program itself. A ``preexec_fn`` could not do the same: it would run Python between fork and exec, which may deadlock
beside threads. MODE is

- ``signal``: Linux sends the program SIGNAL when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG, which
  survives exec). STARTER is the starter's process id.
- ``watch``: for other systems. STARTER is the descriptor of a pipe whose other end only the starter has; a small
  child of the program waits for its end, which comes when the starter dies, and then sends SIGNAL.
"""

from __future__ import annotations

import os
import select
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
CANNOT_EXECUTE = 127
"""Exit status of a child whose program could not be executed, as of a shell."""

WATCH_INTERVAL_S = 0.5
"""How long the watcher may outlive the program it watches for."""


def request_death_signal(signum: int) -> None:
    """Have Linux send this process ``signum`` when the thread that started it ends.

    Where that is refused, by a sandbox perhaps, it says so and goes on.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        print(f"taskstream: no parent-death signal: {os.strerror(ctypes.get_errno())}", file=sys.stderr)


def leave_watcher(pipe: int, signum: int) -> None:
    """Leave a child behind that sends this process ``signum`` once the pipe has ended."""
    program = os.getpid()
    if os.fork() != 0:
        os.set_inheritable(pipe, False)
        return
    os.setsid()  # no Ctrl-C for it, and who looks whether the program's group is empty does not find it there
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for number in map(int, os.listdir("/dev/fd")):  # among them locks and pipes that only the program shall hold
        if number > 2 and number != pipe:
            os.closerange(number, number + 1)  # minds not that the one which listed them is closed already
    while os.getppid() == program:
        ended, _, _ = select.select([pipe], [], [], WATCH_INTERVAL_S)
        if ended:
            os.kill(program, signum)
            break
    os._exit(0)


def main() -> None:
    """See the module's docstring. Runs in the child only."""
    mode, starter, signum, *argv = sys.argv[1:]
    if mode == "signal":
        request_death_signal(int(signum))
        if os.getppid() != int(starter):
            return  # It died before the signal was armed.
    else:
        leave_watcher(int(starter), int(signum))
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"taskstream: {argv[0]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(CANNOT_EXECUTE) from None


if __name__ == "__main__":
    main()
