"""What a result store raises when it cannot keep a batch. Derives from OSError, as the store contract says."""

from __future__ import annotations

import errno

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: check the disk, then mount it for writing again",
    errno.EACCES: "access is denied: check the folder's permissions",
    errno.EPERM: "access is denied: check the folder's permissions",
    errno.EEXIST: "a file is where a folder has to be: move it away",
    errno.ENOTDIR: "a file is where a folder has to be: move it away",
    errno.EIO: "the disk does not read or write: check it",
    errno.EMFILE: "the process has too many files open: raise its limit (ulimit -n)",
}


def remedy(error: OSError) -> str:
    """What an error of the file system means to whoever runs the worker, and what helps."""
    said = error.strerror or str(error)
    known = _REMEDIES.get(error.errno or 0)
    return f"{known} ({said})" if known else f"{said}: check the folder and the disk"


class ResultStoreError(OSError):
    """A batch could not be kept, or not whole: disk full, folder read-only, I/O error, Redis away.

    Its text is one line naming the store and the remedy. The store has dropped what it had open, so the
    next call starts afresh: calling ``write`` again with the same batch is all a caller needs to do.
    """
