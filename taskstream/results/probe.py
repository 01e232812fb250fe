"""Tries whether outcomes could be kept in a folder, by an empty file that is removed again. Keeps nothing itself."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

_REMEDIES = {
    errno.EACCES: "change its permissions or owner",
    errno.EPERM: "change its permissions or owner",
    errno.EROFS: "mount it for writing, or name another folder",
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some space, or have the quota raised",
    errno.ENOTDIR: "it is no folder: name another one",
    errno.EIO: "its disk fails: see the system's log",
}


class Problem(NamedTuple):
    """Why a folder cannot be written, and what to do."""

    text: str
    remedy: str


def folder_of(url: str) -> Path | None:
    """The folder of a store's URL, None for one that has none."""
    scheme, _, rest = url.partition("://")
    return Path(rest) if scheme in ("file", "json") else None


def existing(folder: Path) -> Path:
    """``folder``, or what is nearest above it as long as it has not been made."""
    return next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)


def unwritable(folder: Path) -> Problem | None:
    """What keeps ``folder`` from being written, or made; None if nothing does. May hang as long as its disk does."""
    there = existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".taskstream-probe-"):
            pass
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "see what is wrong with it, or name another folder")
        return Problem(f"{there} cannot be written: {error.strerror or error}", remedy)
    return None
