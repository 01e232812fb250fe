"""The Lua scripts: every state move of a message is one of them. Each file's header is its contract."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def source(name: str) -> str:
    """Text of script ``name`` (without ``.lua``)."""
    return files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
