"""Files that appear whole or not at all, whoever reads them meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress

from taskstream.message import new_id


def write_whole(file: str | os.PathLike[str], content: bytes) -> None:
    """Put ``content`` under the name ``file``, in place of what was there: written beside it, then renamed.

    There is no fsync: the file survives the end of every process, but a power cut shortly after may take it.
    Raises OSError, FileNotFoundError among them where there is no folder for it.
    """
    temporary = f"{os.path.dirname(file) or '.'}/.{new_id()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        error.filename = os.fspath(file)  # the name that says something to people
        raise
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
