"""What is wrong with an author's module that cannot be imported, in words its author can act on."""

from __future__ import annotations

import traceback


def import_problem(error: Exception) -> str:
    """One line: what importing a module raised, and the place in the code where it did."""
    if isinstance(error, SyntaxError):
        text, place = error.msg, f" ({error.filename}:{error.lineno})"
    else:
        # The last frame that is not the import system's is where the author has to look; the first one is ours.
        places = [entry for entry in traceback.extract_tb(error.__traceback__) if "importlib" not in entry.filename]
        text, place = str(error), f" ({places[-1].filename}:{places[-1].lineno})" if len(places) > 1 else ""
    return " ".join(f"{type(error).__name__}: {text}".split()) + place
