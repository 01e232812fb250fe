"""Finds the app that a command names, ``-A package.module:app``, and says what is wrong where there is none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from taskstream.app.core import Taskstream
from taskstream.errors import ConfigError
from taskstream.import_problem import import_problem


def load_app(target: str) -> Taskstream:
    """The app that ``package.module:name`` names, with what it includes; ``name`` is ``app`` unless given.

    The working folder is importable. Raises ConfigError, with the place in the code where importing it failed.
    """
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *(attribute or "app").split(".")]):
        raise ConfigError(f"{target!r} does not name an app: give package.module:name, as in shop.tasks:app")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            missing = f"there is no module {error.name!r} to load {target!r} from in {Path.cwd()}"
            raise ConfigError(missing + _meant_module(module_name)) from None
        raise _broken(module_name, error) from error
    except Exception as error:
        raise _broken(module_name, error) from error
    there = [name for name, value in vars(found).items() if isinstance(value, Taskstream)]
    for part in (attribute or "app").split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Taskstream):
        raise ConfigError(
            f"{target!r} is no Taskstream app: "
            + (
                f"did you mean {f'{module_name}:{there[0]}'!r}?"
                if there
                else f"module {module_name} needs {attribute or 'app'} = Taskstream(…)"
            )
        )
    found.set_current()  # before its modules are imported, which may send to it
    found.load()
    return found


def _meant_module(name: str) -> str:
    """For a module that is not there: the app of a module that is, where a dot stands for the colon or for ``.py``."""
    parent, _, last = name.rpartition(".")
    loaded = sys.modules.get(parent)
    if isinstance(getattr(loaded, last, None), Taskstream):
        return f"; did you mean {f'{parent}:{last}'!r}?"
    return f"; did you mean {parent!r}?" if last == "py" and loaded is not None else ""


def _broken(module: str, error: Exception) -> ConfigError:
    return ConfigError(f"module {module} cannot be imported: {import_problem(error)}")
