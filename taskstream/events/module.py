"""A handler module: importing it, and finding its steps and hooks. Mistakes in it are a ConfigError."""

from __future__ import annotations

import importlib
import inspect
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from taskstream.app.api import EventApi
from taskstream.app.context import EventContext
from taskstream.dataobjects import validator_for
from taskstream.errors import ConfigError
from taskstream.events.chain import Function, RunAsync, Step, inspect_function, required_keywords, resolve
from taskstream.import_problem import import_problem

_REQUEST_HOOKS = {"__preprocess__": 3, "__postprocess__": 3}


@dataclass(frozen=True, slots=True)
class EventModule:
    """What a handler module has. ``api`` is an empty one where it declares none."""

    where: str
    doc: str
    steps: list[Step]
    api: EventApi
    init: Function | None
    preprocess: Function | None
    postprocess: Function | None

    @property
    def payload_type(self) -> Any:
        """What a request's payload is checked against: ``__api__``'s, else what the first function takes."""
        if self.api.payload is not None:
            return self.api.payload.datatype
        return (self.preprocess or self.steps[0].function).first


def load_module(package: str, name: str, event: str, *, is_request: bool) -> EventModule:
    """Import the module of ``event`` and check everything in it that can be wrong.

    Raises ConfigError naming the event, the module and what is wrong.
    """
    full_name = f"{package}.{name}"
    where = f"event {event!r}: module {full_name}"
    module = _import(package, full_name, where)
    steps = [Step(function) for function in _steps(module, where)]
    hooks: dict[str, Function | None] = {}
    for hook, most in _REQUEST_HOOKS.items():
        found = getattr(module, hook, None)
        if found is not None and not is_request:
            raise ConfigError(f"{where}: {hook} is for requests, and a STREAM event has none")
        hooks[hook] = None if found is None else inspect_function(where, hook, found, most)
    init = getattr(module, "__init_event__", None)
    api = getattr(module, "__api__", EventApi())
    if not isinstance(api, EventApi):
        raise ConfigError(f"{where}: __api__ is not what event_api() returns but {type(api).__name__}")
    loaded = EventModule(
        where=where,
        doc=inspect.cleandoc(module.__doc__ or ""),
        steps=steps,
        api=api,
        init=None if init is None else inspect_function(where, "__init_event__", init, 1),
        preprocess=hooks["__preprocess__"],
        postprocess=hooks["__postprocess__"],
    )
    _check(loaded)
    return loaded


def _import(package: str, full_name: str, where: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may be younger than Python's listing of its folder
    try:
        return importlib.import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name in (package, full_name):
            raise ConfigError(
                f"{where} was not found; it must be importable from the working directory or the configuration's folder"
            ) from None
        raise _broken(where, error) from None
    except Exception as error:
        raise _broken(where, error) from None


def _broken(where: str, error: Exception) -> ConfigError:
    return ConfigError(f"{where} cannot be imported: {import_problem(error)}")


def _steps(module: ModuleType, where: str) -> list[Function]:
    names = getattr(module, "__steps__", None)
    if names is None:
        raise ConfigError(f"{where} has no __steps__: list the names of the functions to run, in order")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: __steps__ must be a list of names of functions, not {names!r}")
    found = []
    for name in names:
        if not hasattr(module, name):
            raise ConfigError(f"{where}: __steps__ names {name!r}, but the module has no such function")
        function = inspect_function(where, name, getattr(module, name), 2)
        if not function.takes:
            raise ConfigError(f"{where}: step {name} must take the value as its first parameter")
        found.append(function)
    return found


def _check(module: EventModule) -> None:
    """Types that JSON cannot carry and arguments nobody gives are found now, not at the first request."""
    known = module.api.query_args.keys()
    for function in [step.function for step in module.steps] + [module.preprocess, module.postprocess]:
        if function is not None and (unknown := required_keywords(function) - known):
            raise ConfigError(
                f"{module.where}: {function.name} needs {', '.join(sorted(unknown))}, which is no query argument "
                "of its event_api(query_args=…)"
            )
    for described in (*module.api.responses.values(), *([module.api.payload] if module.api.payload else [])):
        check_type(module.where, described.datatype)


def check_type(where: str, datatype: Any) -> None:
    """Raises ConfigError, saying whose it is, for a type that JSON cannot carry."""
    try:
        validator_for(datatype)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


class Starter:
    """Runs a module's ``__init_event__`` once per process, whoever comes first; after a failure, again."""

    __slots__ = ("_context", "_done", "_init", "_lock", "_run_async")

    def __init__(self, init: Function | None, context: EventContext, run_async: RunAsync) -> None:
        self._init = init
        self._context = context
        self._run_async = run_async
        # A lock of greenlets in a worker, where threading is patched.
        self._lock = threading.Lock()
        self._done = init is None

    def __call__(self) -> None:
        """Returns when the event is ready; raises what its ``__init_event__`` raised."""
        if self._done:
            return
        with self._lock:
            if not self._done:
                assert self._init is not None
                resolve(self._init.call(*(self._context,)[: self._init.takes]), self._run_async)
                self._done = True
