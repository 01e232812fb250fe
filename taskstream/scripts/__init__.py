"""The Lua scripts: every state move of a message is one of them. Each file's header is its contract.

A file whose name begins with ``_`` is no script but a part of others, which take it in by a line ``-- include: NAME``.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)


@cache
def source(name: str) -> str:
    """Text of script ``name`` (without ``.lua``), its parts in their places."""
    return _INCLUDE.sub(lambda found: _text(f"_{found[1]}"), _text(name))


def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
