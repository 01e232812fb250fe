"""How much memory a process takes. Looks only; what is too much is decided elsewhere."""

from __future__ import annotations

import os


def resident(pid: int) -> int:
    """Bytes of memory that process ``pid`` has resident, 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # proc(5): the second number, in pages
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0 if os.path.isdir("/proc/self") else _resident_elsewhere(pid)


def _resident_elsewhere(pid: int) -> int:
    """On systems without that /proc."""
    import psutil  # 2 MiB and 20 ms, which Linux needs not spend

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
