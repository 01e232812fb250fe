"""Taskstream beside other task queues: the same scenarios on one machine, in turns.

setup makes one environment for each queue, below --home (on another machine: anywhere but in the checkout); for
Taskstream it installs this checkout, and has to be run again when that has changed. run prints a JSON line for each
run and tables of medians in the end; in each turn of enqueue and noop the bare loops of redis-py are run as well.
limits runs those loops alone. report and targets make tables out of the JSON lines.

    python -m benchmarks.peers setup
    python -m benchmarks.peers run --out peers.jsonl
    python -m benchmarks.peers targets peers.jsonl

Linux only; needs redis-server on PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import importlib
import json
import os
import pkgutil
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, emit
from benchmarks.peers import adapters, limits, report, targets
from benchmarks.peers.base import SCENARIOS, Peer
from benchmarks.peers.machine import Server
from benchmarks.peers.scenarios import RUN
from benchmarks.peers.session import Session

MAIN = "taskstream,dramatiq:gevent,huey,taskiq:stream,celery:prefork,celery:gevent"
"""Those that came nearest, and the one most people know."""
SCENARIOS_OF_TARGETS = "noop,io,enqueue,latency,result,memory"
LOOP_N = 100_000


def peers() -> dict[str, Peer]:
    """All by name."""
    found = {}
    for module in pkgutil.iter_modules(adapters.__path__):
        peer: Peer = importlib.import_module(f"{adapters.__name__}.{module.name}").PEER
        found[peer.name] = peer
    return found


def selected(spec: str) -> Iterator[tuple[Peer, list[str]]]:
    """``celery,huey:greenlet`` → each peer with its variants. Raises SystemExit for what does not exist."""
    known = peers()
    for item in sorted(known) if spec == "all" else (MAIN if spec == "main" else spec).split(","):
        name, _, variant = item.partition(":")
        if name not in known or (variant and variant not in known[name].variants):
            raise SystemExit(f"there is no {item}; `list` tells what there is")
        yield known[name], [variant] if variant else list(known[name].variants)


def cells(spec: str, scenario: str) -> list[tuple[Peer, str]]:
    """What is run in one turn."""
    found = [(peer, variant) for peer, variants in selected(spec) for variant in variants]
    if scenario == "enqueue":  # all variants of a peer have the same producer
        found = list(dict.fromkeys((peer, peer.producer_variant or variant) for peer, variant in found))
    return found


def versions(peer: Peer, home: Path) -> dict[str, str]:
    """Distribution → version, in the peer's environment."""
    python = home / "venvs" / peer.name / "bin" / "python"
    if not python.exists():
        return {"error": "not set up"}
    code = "import sys,json,importlib.metadata as m;print(json.dumps({d:m.version(d) for d in sys.argv[1:]}))"
    done = subprocess.run([python, "-c", code, *peer.report], capture_output=True, text=True, check=False)
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-200:]}
    return found


def set_up(options: argparse.Namespace) -> None:
    """Make the environments."""
    for peer, _ in selected(options.peers):
        venv = options.home / "venvs" / peer.name
        if not venv.exists():
            subprocess.run([options.python, "-m", "venv", str(venv)], check=True)
        pip = [f"{venv}/bin/pip", "install", "-q"]
        subprocess.run([*pip, *peer.requirements], check=True)
        if str(ROOT) in peer.requirements:
            subprocess.run([*pip, "--force-reinstall", "--no-deps", str(ROOT)], check=True)
        print(peer.name, versions(peer, options.home), flush=True)


def check_installed(home: Path) -> None:
    """Raises SystemExit where the installed Taskstream is not the one of this checkout."""
    (site,) = (home / "venvs" / "taskstream" / "lib").glob("python*/site-packages")
    for folder, package in (("taskstream", "taskstream"), ("worker", "taskstream_worker")):
        for path in (ROOT / folder).rglob("*"):
            installed = site / package / path.relative_to(ROOT / folder)
            if path.suffix in (".py", ".lua") and not (
                installed.exists() and filecmp.cmp(path, installed, shallow=False)
            ):
                raise SystemExit(
                    f"{path.relative_to(ROOT)} is not what is installed: run `setup --peers taskstream` again"
                )


def run(options: argparse.Namespace, server: Server) -> Iterator[dict[str, object]]:
    """All runs, in turns."""
    deadline = time.monotonic() + options.budget
    loops = limits.loops(server, options.n or LOOP_N)
    yield {"machine": platform.node(), "cpus": os.cpu_count(), "python": platform.python_version()} | {
        "server": server.version(),
        "versions": {peer.name: versions(peer, options.home) for peer, _ in selected(options.peers)},
    }
    for scenario in SCENARIOS if options.scenario == "all" else options.scenario.split(","):
        for rep in range(options.reps):
            for name in limits.BESIDE.get(scenario, ()):
                server.flush()
                yield {"scenario": "limits", "peer": name, "variant": "", "rep": rep, **loops[name]()}
            for peer, variant in cells(options.peers, scenario):
                row: dict[str, object] = {"scenario": scenario, "peer": peer.name, "variant": variant, "rep": rep}
                if (variant, scenario) in peer.skip:
                    if rep == 0:
                        yield {**row, "skipped": peer.skip[variant, scenario]}
                    continue
                if time.monotonic() > deadline:
                    yield {**row, "error": "the time allowed is over"}
                    continue
                row["n"] = n = options.n or peer.size(variant, scenario)
                yield {**row, **one_run(Session(peer, variant, scenario, server, options.home, options.conc), n)}


def one_run(session: Session, n: int) -> dict[str, object]:
    """What was measured, or the error."""
    begin = time.monotonic()
    try:
        found = RUN[session.scenario](session, n)
        return {**found, "wall_s": round(time.monotonic() - begin, 1)}
    except Exception as error:  # of one peer; the others go on
        traceback.print_exc()
        return {"error": repr(error)}
    finally:
        session.close()


def all_limits(options: argparse.Namespace, server: Server) -> Iterator[dict[str, object]]:
    """All bare loops, in turns."""
    loops = limits.loops(server, options.n or LOOP_N)
    for rep in range(options.reps):
        for name, loop in loops.items():
            server.flush()
            yield {"scenario": "limits", "peer": name, "variant": "", "rep": rep, **loop()}


def measure(options: argparse.Namespace) -> None:
    """Run, with a server of our own."""

    def leave(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)  # so that workers and server are stopped
    server = Server(options.port, options.server)
    rows = []
    server.start()
    try:
        for row in (all_limits if options.command == "limits" else run)(options, server):
            emit(row, options.out)
            rows.append(row)
    finally:
        server.stop()
    print(f"\n{report.markdown(rows)}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for name in ("setup", "list", "run", "limits", "report", "targets"):
        one = commands.add_parser(name)
        if name in ("report", "targets"):
            one.add_argument("files", nargs="+", type=Path)
            continue
        one.add_argument(
            "--home", type=Path, default=cache / "taskstream-peers", help="where environments and logs are"
        )
        if name in ("setup", "run", "list"):
            preset = "main" if name == "run" else "all"
            one.add_argument("--peers", default=preset, help=f"celery,huey:greenlet,…; main ({MAIN}) or all")
        if name == "setup":
            one.add_argument("--python", default=sys.executable)
        if name == "run":
            said = f"{','.join(SCENARIOS)} or all; by default {SCENARIOS_OF_TARGETS}"
            one.add_argument("--scenario", default=SCENARIOS_OF_TARGETS, help=said)
            one.add_argument(
                "--conc", type=int, default=0, help="tasks in flight in a process, whatever the adapter says"
            )
            one.add_argument("--budget", type=float, default=3600, help="seconds after which nothing more is begun")
            one.add_argument("--as-installed", action="store_true", help="do not compare Taskstream with this checkout")
        if name in ("run", "limits"):
            one.add_argument("--n", type=int, default=0, help="tasks in a run, whatever the adapter says")
            one.add_argument("--reps", type=int, default=3)
            one.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
            one.add_argument("--port", type=int, default=6391, help="of the server that is started")
            one.add_argument("--server", default="redis-server", help="its program")
    return parser.parse_args()


def main() -> None:
    """Do what the command line says."""
    options = parsed()
    if options.command in ("report", "targets"):
        print((report.markdown if options.command == "report" else targets.markdown)(report.read(options.files)))
        return
    options.home = options.home.resolve()
    options.home.mkdir(parents=True, exist_ok=True)
    if options.command == "setup":
        set_up(options)
    elif options.command == "list":
        for peer, variants in selected(options.peers):
            print(f"{peer.name}: {versions(peer, options.home)}")
            for variant in variants:
                print(f"  {variant}: {peer.variants[variant]}")
            print(f"  crash: {peer.crash_note}")
    else:
        if options.command == "run":
            for peer, _ in selected(options.peers):
                if "error" in versions(peer, options.home):
                    raise SystemExit(f"{peer.name} is not set up in {options.home}: run `setup --peers {peer.name}`")
                if peer.name == "taskstream" and not options.as_installed:
                    check_installed(options.home)
        with contextlib.suppress(KeyboardInterrupt):
            measure(options)


if __name__ == "__main__":
    main()
