"""Entry of worker processes: ``python -m taskstream_worker.child FD,FD… NAME…``, started by the supervisor.

The first line of the orders' pipe FD is the options of one; NAME only shows in process lists. Given several, it forks
one process for each and ends (``siblings.py``).
"""

# Before anything else is imported: a module that took a blocking function by then would keep it.
from .patching import patch_all

patch_all()

import gc  # noqa: E402  (everything below comes after patching, on purpose)
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from types import FrameType  # noqa: E402

import msgspec  # noqa: E402
from gevent import monkey  # noqa: E402

from .options import ProcessOptions  # noqa: E402
from .orders import IGNORED_SIGNALS, Report  # noqa: E402
from .pipes import read_options  # noqa: E402
from .process import main  # noqa: E402


def ignore(number: int, frame: FrameType | None) -> None:
    """A handler, because SIG_IGN would be inherited by programs that tasks start, and nothing could end those."""


def fork_each(everybody: Sequence[ProcessOptions]) -> ProcessOptions:
    """Fork a process for each and end. Returns in the new ones only, with the options of that one."""
    import taskstream.app.loading  # noqa: F401  (what all their applications need)

    gc.collect()
    gc.freeze()  # a collection in one of them would touch, and so copy, what they share
    fork = monkey.get_original("os", "fork")  # gevent's own makes a hub
    for mine in everybody:
        if fork() == 0:
            for other in everybody:
                if other is not mine:
                    for fd in (other.orders_fd, other.reports_fd, other.table_fd):
                        os.close(fd)
            os.write(mine.reports_fd, msgspec.json.encode(Report("forked", number=os.getpid())) + b"\n")
            return mine
    os._exit(0)


if __name__ == "__main__":
    found = [read_options(int(fd)) for fd in sys.argv[1].split(",")]
    own = fork_each(found) if len(found) > 1 else found[0]
    for number in IGNORED_SIGNALS:
        signal.signal(number, ignore)
    # The supervisor blocked them, lest one comes earlier.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)
    main(own)
