"""What is wrong with an author's module that cannot be imported, in words its author can act on."""

from __future__ import annotations

import traceback
from itertools import dropwhile, takewhile
from pathlib import Path

_OURS = Path(__file__).parent


def import_problem(error: Exception) -> str:
    """One line: what importing a module raised, and the place in the author's code where it did."""
    if isinstance(error, SyntaxError):
        text, place = error.msg, f" ({error.filename}:{error.lineno})"
    else:
        text, place = str(error), _place(error)
    return " ".join(f"{type(error).__name__}: {text}".split()) + place


def _place(error: Exception) -> str:
    """The last line of the author's before whatever of ours it called; nothing where only ours ran."""
    frames = [entry for entry in traceback.extract_tb(error.__traceback__) if "importlib" not in entry.filename]
    theirs = list(takewhile(_not_ours, dropwhile(lambda entry: not _not_ours(entry), frames)))
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""


def _not_ours(entry: traceback.FrameSummary) -> bool:
    return not Path(entry.filename).is_relative_to(_OURS)
