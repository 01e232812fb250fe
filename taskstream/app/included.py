"""The modules of tasks that an app names by ``include=``: checks the names, and imports them when the app is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from taskstream.errors import ConfigError
from taskstream.import_problem import import_problem


def checked_names(where: str, names: object) -> tuple[str, ...]:
    """``names`` as a tuple. Raises ConfigError naming ``where`` for what is no list of modules' names."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigError(
            f"{where}: include={names!r:.200} is no list: give the names of modules, as in ['shop.tasks']"
        )
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"{where}: include: {name!r:.200} is no module's name: give one as in 'shop.tasks'")
    return found


def import_all(where: str, names: Sequence[str]) -> None:
    """Import the modules, in order. Raises ConfigError naming the one that cannot be, and the place of the failure."""
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                raise ConfigError(f"{where}: include: there is no module {error.name!r} in {Path.cwd()}") from None
            raise _broken(where, name, error) from error
        except Exception as error:
            raise _broken(where, name, error) from error


def _broken(where: str, name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{where}: include: module {name} cannot be imported: {import_problem(error)}")
