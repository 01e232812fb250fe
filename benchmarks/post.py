"""The tutorial's POST at 16 clients: Taskstream beside hopeit.engine on one machine, in one interleaved run.

    python benchmarks/post.py [--seconds 5] [--rounds 3] [--clients 16] [--hopeit PYTHON]

Both serve the very same modules (tests/acceptance/tutorial_app; for hopeit.engine 0.30 with the package name in the
imports changed and the decorator and configuration it now asks for), both consume the stream while they serve, both
log at INFO to a file. `--hopeit` names the Python of an environment that has
`hopeit.engine[web,cli,redis-streams,fs-storage]`; without it one is made. Needs `wrk` on PATH. Starts its own Valkey.
One JSON line per figure, then a Markdown table of medians; CPU is that of the whole process tree, workers included.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from taskstream.broker import Broker
from taskstream.embedded import EmbeddedBroker

TUTORIAL = Path(__file__).parents[1] / "tests" / "acceptance" / "tutorial_app"
PATH = "/api/my-streaming-app/1x0/send-message"
BODY = '{"text": "valid text"}'
WRK = f"""
wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["Content-Type"] = "application/json"
"""
PORTS = {"taskstream": 8041, "hopeit.engine": 8042}


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


def command(name: str, hopeit_python: str) -> list[str]:
    """How to start it."""
    port = str(PORTS[name])
    if name == "taskstream":
        return [
            *(sys.executable, "-m", "taskstream.cli", "run", "--start-streams"),
            *("--config-files=server.json,config.json", "--port", port),
        ]
    return [
        *(str(Path(hopeit_python).parent / "hopeit_server"), "run", "--start-streams"),
        *("--config-files=server.json,plugin.json,config.json", "--port", port),
    ]


def post(port: int) -> bool:
    """Whether a POST is answered."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PATH}", BODY.encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def running(name: str, folder: Path, hopeit_python: str) -> Iterator[psutil.Process]:
    """The system, up and serving."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command(name, hopeit_python), cwd=folder, stdout=log, stderr=log, env=environment(folder)
        )
    try:
        deadline = time.monotonic() + 30
        while not post(PORTS[name]):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{name} does not serve:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's but what finds programs."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": "."}


def cpu_s(process: psutil.Process) -> float:
    """CPU of the process tree so far."""
    tree = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in tree)


def measure(name: str, process: psutil.Process, seconds: int, clients: int, script: Path) -> dict[str, float]:
    """Requests/s, p99 in ms, and CPU µs a request."""
    before = cpu_s(process)
    url = f"http://127.0.0.1:{PORTS[name]}{PATH}"
    output = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds}", "--latency", "-s", str(script), url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cpu = cpu_s(process) - before
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])  # type: ignore[index]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr]
    p99 = float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    requests = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    return {
        "per_s": rate,
        "p99_ms": p99,
        "cpu_us": cpu / requests * 1e6,
        "failed": int(failed[1]) if failed else 0,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--hopeit", help="Python that has hopeit.engine")
    options = parser.parse_args()
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in PORTS}
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as broker:
        hopeit = options.hopeit or make_hopeit_environment(Path(home) / "hopeit")
        script = Path(home) / "post.lua"
        script.write_text(WRK)
        for _ in range(options.rounds):
            for name in PORTS:
                with tempfile.TemporaryDirectory() as place:
                    folder = Path(place)
                    # Both name the same stream and group, and neither can read what the other left there.
                    Broker(broker.url).client.flushall()
                    (write_taskstream if name == "taskstream" else write_hopeit)(folder, broker.url)
                    with running(name, folder, hopeit) as process:
                        found = measure(name, process, options.seconds, options.clients, script)
                figures[name].append(found)
                print(
                    json.dumps({"system": name, **{key: round(value, 1) for key, value in found.items()}}), flush=True
                )
    print(f"\n| POST, {options.clients} clients | requests/s | p99 ms | CPU µs a request, all processes | failed |")
    print("|---|---:|---:|---:|---:|")
    for name, runs in figures.items():
        mid = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(f"| {name} | {mid['per_s']:,.0f} | {mid['p99_ms']:.1f} | {mid['cpu_us']:,.0f} | {mid['failed']:.0f} |")


if __name__ == "__main__":
    main()
