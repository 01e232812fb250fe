"""A small disk of the run's own for the results, which can be full at any moment. Needs root on Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SIZE = "4g"
"""Far more than any run needs; memory is only taken for what is written."""


class SmallDisk:
    """A tmpfs at ``folder``, or just the folder where nobody may mount one (``why_not`` says so)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.why_not = ""
        folder.mkdir()
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            self.why_not = "only root can mount a small disk"
            return
        tried = _mount("-t", "tmpfs", "-o", f"size={SIZE}", "taskstream-chaos", str(folder))
        if tried.returncode:
            self.why_not = f"a small disk cannot be mounted here: {tried.stderr.strip()}"

    def fill(self) -> bool:
        """Leave no room for one page more; whether that worked."""
        for _ in range(20):
            found = os.statvfs(self.folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            # Somebody may have written more since: then it is refused, and the next look will do.
            if _mount("-o", f"remount,size={max(used, found.f_frsize)}", str(self.folder)).returncode == 0:
                return True
        return False

    def free(self) -> None:
        """Make room again."""
        if not self.why_not:
            tried = _mount("-o", f"remount,size={SIZE}", str(self.folder))
            assert tried.returncode == 0, tried.stderr

    def remove(self) -> None:
        """Unmount it."""
        if not self.why_not:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(["mount"], 1, "", str(error))
