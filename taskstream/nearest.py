"""What somebody may have meant by a name that is not there. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name of ``known`` that is most like ``name``, also by what follows its last dot; None if none is."""
    names = list(known)
    given = name[:200]  # the comparison takes long for long texts
    for one in names:
        if one.rpartition(".")[2] == given:
            return one
    found = difflib.get_close_matches(given, names, n=1)
    if not found:
        short = {one.rpartition(".")[2]: one for one in names}
        found = [short[one] for one in difflib.get_close_matches(given.rpartition(".")[2], short, n=1)]
    return found[0] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing."""
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found is not None else ""
