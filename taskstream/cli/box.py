"""Web server and worker pool on one box, under one parent: what ``dev`` and ``run`` have in common."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
from collections.abc import Callable

import msgspec

from taskstream.cli.children import Changed, Child, Children, Events, Signalled, listening
from taskstream.cli.facts import Facts
from taskstream.cli.log_options import log_format, log_level
from taskstream.cli.output import note
from taskstream.cli.target import Target

WEB_PROCESSES = 2

POOL_NICENESS = 5
"""Under one roof with the web server the pool yields to it: requests have somebody waiting, messages do not."""

KILL_MARGIN_S = 15.0
"""How much longer than its grace a child may take to stop: more than a pool gives its own processes."""


def pool_child(
    target: Target, broker_url: str, *, grace: float, processes: int | None = None, auto_start: bool = True
) -> Child:
    """A worker pool; ``grace`` in seconds, ``auto_start`` as in PoolOptions."""
    from taskstream_worker.options import PoolOptions
    from taskstream_worker.options import Target as PoolTarget

    options = PoolOptions(
        target=PoolTarget(app=target.app, config_files=target.config_files),
        processes=processes,
        log_level=log_level(),
        log_format=log_format(),
        grace=grace,
        auto_start=auto_start,
        niceness=POOL_NICENESS,
    )
    return _child("the worker pool", ["taskstream_worker", "pool"], options, broker_url)


def web_child(
    target: Target, broker_url: str, *, host: str, port: int, processes: int = WEB_PROCESSES, insecure: bool = False
) -> Child:
    """A web server."""
    from taskstream_webapp.server import ServeOptions

    options = ServeOptions(
        config_files=target.config_files,
        app=target.app,
        host=host,
        port=port,
        processes=processes,
        insecure=insecure,
        log_level=log_level(),
        log_format=log_format(),
    )
    return _child("the web server", ["taskstream_webapp"], options, broker_url)


def _child(name: str, module: list[str], options: object, broker_url: str) -> Child:
    """The broker's URL travels in the environment, where no list of processes shows its password."""
    argv = [sys.executable, "-m", *module, "--options", msgspec.json.encode(options).decode()]
    return Child(name, argv, {**os.environ, "TASKSTREAM_BROKER": broker_url})


def check_port(host: str, port: int, insecure: bool = False) -> None:
    """Raises ConfigError if the web server may or can not listen there, now that no child has been started."""
    from taskstream_webapp.server import ServeOptions, check_address

    check_address(ServeOptions(host=host, port=port, insecure=insecure))


def page_url(host: str, port: int) -> str:
    """Where a browser on this machine finds the web server."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def announce(url: str, broker_url: str, facts: Facts, stop_hint: str) -> None:
    """Print where everything is and how to stop it."""
    from taskstream.display import display_url
    from taskstream.results.store import BROKERS_OWN

    results = broker_url if facts.results == BROKERS_OWN else facts.results
    rows = [
        ("page", f"{url}/"),
        ("docs", f"{url}{facts.docs_path}" if facts.docs_path else None),
        ("broker", display_url(broker_url)),
        ("results", display_url(results) if results else "not kept"),
        ("stop", stop_hint),
    ]
    with contextlib.suppress(OSError):  # a full disk behind stdout is no reason to stop
        print("\n".join(f"  {name:<8} {text}" for name, text in rows if text), flush=True)


OnChange = Callable[[tuple[str, ...], bool], bool]
"""Checks changed code: called with the paths and whether anything runs; says whether to start all anew."""


def watch_over(children: Children, events: Events, grace: float, on_change: OnChange | None = None) -> int:
    """Keep the children running until a stop signal comes, then stop them; return the exit status. For the main thread.

    Without ``on_change``, a child whose configuration cannot work ends everything, with exit status 2.
    """
    with listening(events):
        try:
            children.start()
            return _tend(children, events, grace, on_change)
        finally:
            # Whatever ended it, be it that the terminal is gone and nothing can be printed any more.
            children.stop(grace + KILL_MARGIN_S)


def _tend(children: Children, events: Events, grace: float, on_change: OnChange | None) -> int:
    while True:
        try:
            event = events.get(timeout=children.patience())
        except queue.Empty:
            event = None
        if isinstance(event, Signalled):
            note("stopping")
            return 0
        if isinstance(event, Changed) and on_change is not None:
            if on_change(event.paths, children.running()):
                if children.stop(grace + KILL_MARGIN_S, restart=True):
                    return 0
                if _still_good(events, on_change):
                    children.start()
            continue
        hopeless = children.tend()
        if hopeless and on_change is None:
            note(f"{hopeless[0].name} cannot work with this configuration: stopping")
            children.stop(grace + KILL_MARGIN_S, restart=True)
            return 2
        if hopeless:
            note(f"{hopeless[0].name} cannot work with this code: waiting for the next change")


def _still_good(events: Events, on_change: OnChange) -> bool:
    """Whether the code can still be started after what changed while the children were stopping."""
    while later := events.take_changes():
        if not on_change(later, False):
            return False
    return True
