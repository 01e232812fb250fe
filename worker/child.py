"""Entry of a worker process: ``python -m taskstream_worker.child FD NAME``, started by the supervisor.

The first line of the orders' pipe FD is its options; NAME only shows in process lists.
"""

# Before anything else is imported: a module that took a blocking function by then would keep it.
from .patching import patch_all

patch_all()

import signal  # noqa: E402  (everything below comes after patching, on purpose)
import sys  # noqa: E402
from types import FrameType  # noqa: E402

from .orders import IGNORED_SIGNALS  # noqa: E402
from .pipes import read_options  # noqa: E402
from .process import main  # noqa: E402


def ignore(number: int, frame: FrameType | None) -> None:
    """A handler, because SIG_IGN would be inherited by programs that tasks start, and nothing could end those."""


if __name__ == "__main__":
    for number in IGNORED_SIGNALS:
        signal.signal(number, ignore)
    # The supervisor blocked them, lest one comes earlier.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)
    main(read_options(int(sys.argv[1])))
