"""What a result store raises when it cannot keep a batch. Derives from OSError, as the store contract says."""

from __future__ import annotations


class ResultStoreError(OSError):
    """A batch could not be kept, or not whole: disk full, folder read-only, I/O error, Redis away.

    Its text is one line naming the store and the remedy. The store has dropped what it had open, so the
    next call starts afresh: calling ``write`` again with the same batch is all a caller needs to do.
    """
