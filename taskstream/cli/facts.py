"""What a command needs to know of the application's code, found out in a process of its own.

Loading an application runs its author's modules. ``dev``, ``run`` and ``worker`` live long and load it in children
only; so a broken edit, a module that prints or one that starts threads never touches them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from taskstream import processes
from taskstream.cli.target import Target
from taskstream.errors import ConfigError, TaskstreamError

if TYPE_CHECKING:
    from taskstream.config import AppConfig, ServerConfig
    from taskstream.results.base import ResultStore

LOAD_TIMEOUT_S = 60.0
ASK_EVERY_S = 0.2


class Known(msgspec.Struct, frozen=True):
    """An event or queue. ``name`` is the shortest way to say it to the control channel."""

    label: str
    name: str
    stream: str
    group: str


class Facts(msgspec.Struct, frozen=True):
    """What the code says. ``results`` is the result store's URL, None if none is kept; ``redis://`` alone is the
    broker's server, which is chosen later. ``packages`` are the folders of the application's modules;
    ``differences`` those between the OpenAPI file asked about and the code.
    """

    broker: str | None
    results: str | None
    docs_path: str | None
    packages: list[str]
    subscriptions: list[Known]
    differences: list[str] = []


class Question(msgspec.Struct, frozen=True):
    """What to find out: of which code, and compared with which OpenAPI file."""

    target: Target
    api_file: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """Facts, or why there are none."""

    facts: Facts | None = None
    error: str = ""


def gather(target: Target, api_file: str | None = None) -> Facts:
    """Load the code in this process and say what it is. Raises ConfigError."""
    if target.app is not None:
        return _of_app(target.app)
    return _of_configuration(target, api_file)


def gather_apart(target: Target, api_file: str | None = None, *, give_up: Callable[[], bool] = lambda: False) -> Facts:
    """The same, found out by a child process; ``give_up`` is asked now and then meanwhile.

    Raises ConfigError, also where the code ends that process or hangs; TaskstreamError if it was to give up.
    """
    with tempfile.NamedTemporaryFile(prefix="taskstream-") as file:
        question = msgspec.json.encode(Question(target, api_file)).decode()
        argv = [sys.executable, "-m", "taskstream.cli.facts", question, file.name]
        child = processes.spawn(argv, own_group=True, output=subprocess.DEVNULL)
        try:
            status = _wait(child, target, give_up)
        finally:
            processes.stop(child, 0.0)
        content = file.read()
    if not content:
        raise ConfigError(f"{target}: loading the code ended the process that tried (exit status {status})")
    answer = msgspec.json.decode(content, type=Answer)
    if answer.facts is None:
        raise ConfigError(answer.error)
    return answer.facts


def _wait(child: subprocess.Popen[bytes], target: Target, give_up: Callable[[], bool]) -> int:
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(ASK_EVERY_S)
        if give_up():
            raise TaskstreamError(f"{target}: loading the code was interrupted")
    raise ConfigError(f"{target}: the code took longer than {LOAD_TIMEOUT_S:.0f} s to load")


def broker_said_by(target: Target) -> str | None:
    """The broker the code names, None if it names none. Raises ConfigError."""
    if target.app is not None:
        return gather_apart(target).broker
    return _read(target)[0].broker_url


def subscriptions_said_by(target: Target) -> list[Known]:
    """What the code subscribes to. Raises ConfigError."""
    if target.app is not None:
        return gather_apart(target).subscriptions
    return _known(_read(target)[1])


def streams_said_by(target: Target | None) -> list[str]:
    """The streams the code reads or writes; none without a target. Raises ConfigError."""
    if target is None:
        return []
    found = {one.stream for one in subscriptions_said_by(target)}
    if target.app is None:
        events = [event for app in _read(target)[1] for event in app.events.values()]
        found |= {event.write_stream for event in events if event.write_stream is not None}
    return sorted(found)


def open_results(target: Target) -> ResultStore | None:
    """The result store the code names, None if it keeps none. Raises ConfigError."""
    if target.app is not None:
        from taskstream.app.loading import load_app

        return load_app(target.app).results
    return _results_of(_read(target)[0])


def _of_app(name: str) -> Facts:
    from taskstream.app.loading import load_app
    from taskstream.config import DEFAULT_DOCS_PATH
    from taskstream.results.store import BROKERS_OWN

    app = load_app(name)
    file = sys.modules[name.partition(":")[0]].__file__
    try:
        broker = app.broker.url
    except ConfigError:
        broker = None  # one may be embedded or given
    return Facts(
        broker=broker,
        results=BROKERS_OWN if app.results_named()[0] == BROKERS_OWN else _url_of(app.results),
        docs_path=DEFAULT_DOCS_PATH,  # an app of tasks has no server.json to say otherwise
        packages=[str(Path(file).resolve().parent)] if file else [],
        subscriptions=[Known(one.label, one.label, one.stream, one.group) for one in app.subscriptions()],
    )


def _of_configuration(target: Target, api_file: str | None) -> Facts:
    from taskstream.cli import apidoc
    from taskstream.results.store import BROKERS_OWN

    loaded = apidoc.load(target)
    document = apidoc.document_of(loaded)
    server = loaded.server
    at_broker = (os.environ.get("TASKSTREAM_RESULTS") or server.results_url) == BROKERS_OWN
    packages = (sys.modules[app.package].__file__ for app in loaded.apps if app.package in sys.modules)
    return Facts(
        broker=server.broker_url,
        results=BROKERS_OWN if at_broker else _url_of(_results_of(server)),
        docs_path=server.docs_path,
        packages=sorted({str(Path(file).resolve().parent) for file in packages if file}),
        subscriptions=_known(_read(target)[1]),
        differences=apidoc.differences(apidoc.read(Path(api_file)), document) if api_file is not None else [],
    )


def _read(target: Target) -> tuple[ServerConfig, list[AppConfig]]:
    from taskstream.config import read_files, split_paths

    return read_files(split_paths(target.config_files or ""))


def _results_of(server: ServerConfig) -> ResultStore | None:
    from taskstream.results import open_store

    elsewhere = os.environ.get("TASKSTREAM_RESULTS")
    broker = os.environ.get("TASKSTREAM_BROKER") or server.broker_url
    if elsewhere:
        return open_store(elsewhere, base=Path.cwd(), broker_url=broker)
    url, base = server.results_url, server.base
    return open_store(url, base=base, retention=server.retention, fsync=server.fsync, broker_url=broker)


def _url_of(store: ResultStore | None) -> str | None:
    """Where another process finds the results; None also for an object of the code's own, whose URL opens nothing."""
    from taskstream.results.store import check_url

    if store is None:
        return None
    try:
        check_url(store.url)
    except ConfigError:
        return None
    return store.url


def _known(apps: list[AppConfig]) -> list[Known]:
    from taskstream.control import pick
    from taskstream.events import EventApp

    found: dict[str, tuple[str, str]] = {}
    for config in apps:
        app = EventApp(config.name, config.version, config.env, config.events, config.path.parent)
        for event in config.events.values():
            if event.read_stream is not None:
                found[app.label(event.name)] = event.read_stream

    def short(label: str) -> str:
        own = label.rpartition(".")[2]
        try:
            return own if pick(own, found) == label else label
        except ConfigError:
            return label

    return [Known(label, short(label), *found[label]) for label in found]


def _main(question_text: str, path: str) -> None:
    question = msgspec.json.decode(question_text, type=Question)
    try:
        answer = Answer(gather(question.target, question.api_file))
    except TaskstreamError as error:
        answer = Answer(error=str(error))
    except Exception as error:
        answer = Answer(error=f"{question.target}: {type(error).__name__}: {error}")
    Path(path).write_bytes(msgspec.json.encode(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
