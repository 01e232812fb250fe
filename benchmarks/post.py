"""POSTs from 16 clients: Taskstream beside hopeit.engine, and the web's CPU beside a bare Flask view, in one run.

    python -m benchmarks.post [--seconds 5] [--rounds 3] [--clients 16] [--only TEXT] [--hopeit PYTHON]

`taskstream` and `hopeit.engine` serve the very same modules (tests/acceptance/tutorial_app; for hopeit.engine 0.30 with
the package name in the imports changed and the decorator and configuration it now asks for), both consume the stream
while they serve, both log at INFO to a file. The others serve only: `web, event` the same POST, `web, task` a call of
a task, `web, bare Flask` one view that returns a constant, all by `taskstream web`'s server with its default processes
and threads. `--hopeit` names the Python of an environment that has
`hopeit.engine[web,cli,redis-streams,fs-storage]`; without it one is made. Starts its own Valkey. CPU is that of the
whole process tree of a system, the client's is beside it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from benchmarks.harness import Column, Figures, chosen, cpu_s, parser, server, turns
from benchmarks.http_load import drive, post_request
from taskstream.broker import Broker
from taskstream_webapp.server import ServeOptions

TUTORIAL = Path(__file__).parents[1] / "tests" / "acceptance" / "tutorial_app"
EVENT = ("/api/my-streaming-app/1x0/send-message", b'{"text": "valid text"}')
REQUESTS = {
    "taskstream": EVENT,
    "hopeit.engine": EVENT,
    "web, event": EVENT,
    "web, task": ("/api/tasks/shop.note", b'{"kwargs": {"id": 123, "text": "hello world"}}'),
    "web, bare Flask": ("/", b""),
}
PORTS = {name: 8041 + number for number, name in enumerate(REQUESTS)}
START_S = 120.0
JOBS = """
from taskstream import Taskstream

app = Taskstream("shop")


@app.task
def note(id: int, text: str) -> None:
    pass
"""
BARE = """
from flask import Flask

app = Flask(__name__)


@app.post("/")
def nothing():
    return "{}"
"""
COLUMNS = [
    Column("per_s", "requests/s"),
    Column("p50_ms", "p50 ms", 1),
    Column("p99_ms", "p99 ms", 1),
    Column("cpu_us", "CPU µs a request"),
    Column("client_us", "client's CPU µs"),
    Column("failed", "failed"),
]


def make_hopeit_environment(folder: Path) -> str:
    """A virtual environment with the reference; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    wanted = "hopeit.engine[web,cli,redis-streams,fs-storage]"
    subprocess.run([python, "-m", "pip", "install", "-q", wanted], check=True)
    return python


def write_taskstream(folder: Path, broker_url: str) -> None:
    """The tutorial's app as it stands."""
    shutil.copytree(TUTORIAL, folder, dirs_exist_ok=True)
    server = {"logging": {"log_level": "INFO"}, "streams": {"connection_str": broker_url}}
    (folder / "server.json").write_text(json.dumps(server))


def write_hopeit(folder: Path, broker_url: str) -> None:
    """The same app in the form that hopeit.engine 0.30 takes."""
    shutil.copytree(TUTORIAL, folder, dirs_exist_ok=True)
    for module in (folder / "my_streaming_app").glob("*.py"):
        text = module.read_text().replace("taskstream.toolkit.storage.fs", "hopeit.fs_storage")
        text = text.replace("from taskstream", "from hopeit")
        text = text.replace("import dataobject\n", "import dataclass, dataobject\n")
        module.write_text(text.replace("@dataobject\n", "@dataobject\n@dataclass\n"))
    server = {
        "logging": {"log_level": "INFO"},
        "streams": {"stream_manager": "hopeit.redis_streams.RedisStreamManager", "connection_str": broker_url},
    }
    plugin = {
        "app": {"name": "redis-streams-plugin", "version": "1.0"},
        "events": {"setup_redis_pool": {"type": "SETUP", "impl": "hopeit.redis_streams.setup_redis_pool"}},
        "settings": {"redis_auth": {"username": "default", "password": ""}, "redis_pool": {}},
    }
    config = json.loads((folder / "config.json").read_text())
    config["plugins"] = [{"name": "redis-streams-plugin", "version": "1.0"}]
    for name, content in (("server", server), ("plugin", plugin), ("config", config)):
        (folder / f"{name}.json").write_text(json.dumps(content))


def write(name: str, folder: Path, broker_url: str) -> None:
    """What a system serves."""
    if name == "hopeit.engine":
        write_hopeit(folder, broker_url)
    elif name == "web, task":
        (folder / "jobs.py").write_text(JOBS)
    elif name == "web, bare Flask":
        (folder / "bare.py").write_text(BARE)
    else:
        write_taskstream(folder, broker_url)


def command(name: str, hopeit_python: str, broker_url: str) -> list[str]:
    """How to start it."""
    port = str(PORTS[name])
    ours = (sys.executable, "-m", "taskstream.cli")
    files = "--config-files=server.json,config.json"
    default = {field.name: str(field.default) for field in fields(ServeOptions)}
    match name:
        case "taskstream":
            return [*ours, "run", "--start-streams", files, "--port", port]
        case "web, event":
            return [*ours, "web", files, "--port", port]
        case "web, task":
            return [*ours, "web", "-A", "jobs:app", "--broker", broker_url, "--port", port]
        case "web, bare Flask":
            return [
                *(sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--no-log", "--port", port),
                *("--workers", default["processes"], "--blocking-threads", default["threads"], "bare:app"),
            ]
    hopeit = str(Path(hopeit_python).parent / "hopeit_server")
    return [hopeit, "run", "--start-streams", "--config-files=server.json,plugin.json,config.json", "--port", port]


@contextmanager
def running(name: str, folder: Path, hopeit_python: str, broker_url: str) -> Iterator[int]:
    """The system, up and warm; its process id."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": "."}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command(name, hopeit_python, broker_url), cwd=folder, stdout=log, stderr=log, env=environment
        )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                drive(PORTS[name], post_request(PORTS[name], *REQUESTS[name]), 1, 0.5)
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{name} does not serve:\n{(folder / 'log').read_text()[-2000:]}") from None
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(name: str, pid: int, seconds: int, clients: int) -> dict[str, str | float | None]:
    """Load it; what came of it."""
    before = cpu_s(pid)
    load = drive(PORTS[name], post_request(PORTS[name], *REQUESTS[name]), clients, seconds)
    return {
        "system": name,
        "per_s": load.per_s,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "cpu_us": (cpu_s(pid) - before) / load.requests * 1e6,
        "client_us": load.client_cpu_us,
        "failed": load.failed,
    }


def main() -> None:
    """Measure and print."""
    command_line = parser(__doc__, seconds=5, rounds=3, clients=16)
    command_line.add_argument("--hopeit", help="Python that has hopeit.engine")
    options = command_line.parse_args()
    figures = Figures(["system"], COLUMNS, options.out)
    with tempfile.TemporaryDirectory() as home, server() as url:
        hopeit = options.hopeit
        if hopeit is None and "hopeit.engine" in chosen(REQUESTS, options.only):
            hopeit = make_hopeit_environment(Path(home) / "hopeit")
        for name in turns(REQUESTS, options):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                # Two of them name the same stream and group, and neither can read what the other left there.
                Broker(url).client.flushall()
                write(name, folder, url)
                with running(name, folder, hopeit or "", url) as pid:
                    figures.add(measure(name, pid, options.seconds, options.clients))
    figures.show()


if __name__ == "__main__":
    main()
