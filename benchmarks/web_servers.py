"""Compares production servers for the web app: the same minimal Flask app, one XADD for each POST.

    python benchmarks/web_servers.py [--seconds 5] [--clients 16] [--only granian]

Needs `wrk` (a load generator that uses little CPU itself) on PATH and the packages named in SERVERS. Starts its
own Valkey. CPU is user + system time of the server's whole process tree, divided by the requests it answered.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import flask
import psutil
import redis

from taskstream.embedded import EmbeddedBroker

BODY = '{"text": "valid text", "size": 10}'
WRK_SCRIPT = f"""
wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["Content-Type"] = "application/json"
"""
PYWSGI = """
import gevent.monkey; gevent.monkey.patch_all()
import socket, sys
sys.path.insert(0, {here!r})
from gevent import pywsgi
from web_servers import app
listener = socket.create_server(("127.0.0.1", {port}), backlog=1024)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, {nodelay})
pywsgi.WSGIServer(listener, app, log=None).serve_forever()
"""


def create_app() -> flask.Flask:
    """The app under test: parse JSON, one XADD, answer JSON."""
    made = flask.Flask(__name__)
    pool = redis.BlockingConnectionPool.from_url(os.environ["BENCH_BROKER"], max_connections=16)
    client = redis.Redis(connection_pool=pool)

    @made.post("/publish")
    def publish() -> flask.Response:
        data = flask.request.get_json()
        client.xadd("bench", {"v": 1, "body": data["text"]})
        return flask.jsonify(data)

    return made


def servers(port: int) -> dict[str, list[str]]:
    """Name → command line of each candidate."""
    python, address = sys.executable, f"127.0.0.1:{port}"
    here = str(Path(__file__).parent)
    found: dict[str, list[str]] = {}
    for workers, threads in ((1, 1), (1, 16), (2, 1), (2, 8), (2, 32), (2, 128)):
        found[f"granian, {workers} processes, {threads} threads"] = [
            *(python, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--workers", str(workers)),
            *("--blocking-threads", str(threads), "--no-log", "--http", "1", "web_servers:app"),
        ]
    for workers in (1, 2):
        found[f"gunicorn gevent, {workers} processes"] = [
            *(python, "-m", "gunicorn", "-k", "gevent", "-w", str(workers), "-b", address, "web_servers:app"),
        ]
    found["gunicorn gthread, 2 processes, 16 threads"] = [
        *(python, "-m", "gunicorn", "-k", "gthread", "--threads", "16", "-w", "2", "-b", address, "web_servers:app"),
    ]
    for nodelay in (0, 1):
        found[f"gevent.pywsgi, 1 process, TCP_NODELAY {nodelay}"] = [
            *(python, "-c", PYWSGI.format(here=here, port=port, nodelay=nodelay)),
        ]
    return found


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Until something accepts connections at ``port``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not listen")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants."""
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in [parent, *parent.children(recursive=True)]]
    return sum(found.user + found.system for found in times)


def load(port: int, clients: int, seconds: int, script: str) -> dict[str, float]:
    """Drive ``/publish`` with keep-alive connections: rate, p50 and p99 (ms), number, and how many failed."""
    output = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", "-s", script, f"http://127.0.0.1:{port}/publish"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    found: dict[str, float] = {"rate": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])}  # type: ignore[index]
    for percentile in ("50", "99"):
        match = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", output)
        assert match, output
        found[f"p{percentile}"] = float(match[1]) * units[match[2]]
    found["requests"] = float(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    found["failed"] = float(failed[1]) if failed else 0.0
    return found


def measure(
    command: Sequence[str], port: int, broker: str, clients: int, seconds: int, script: str
) -> dict[str, float]:
    """Start one server, warm it up, measure it, stop it."""
    environment = {**os.environ, "BENCH_BROKER": broker}
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, process)
        load(port, clients, 1, script)
        before = cpu_seconds(process.pid)
        found = load(port, clients, seconds, script)
        found["cpu_us"] = (cpu_seconds(process.pid) - before) / found["requests"] * 1e6
        return found
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Measure every candidate and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--only", default="", help="measure only servers whose name holds this")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not on PATH: install the package wrk")
    names = ("flask", "redis", "granian", "gunicorn", "gevent")
    print("Python", sys.version.split()[0], *(f"· {name} {importlib.metadata.version(name)}" for name in names))
    print(
        "\n| server | POST/s | p50 ms | p99 ms | CPU µs/request | failed |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder)) as broker:
        script = Path(folder, "post.lua")
        script.write_text(WRK_SCRIPT)
        with redis.Redis.from_url(broker.url) as client:
            for name in servers(0):
                if options.only in name:
                    port = free_port()
                    row = measure(servers(port)[name], port, broker.url, options.clients, options.seconds, str(script))
                    client.flushall()
                    print(
                        f"| {name} | {row['rate']:,.0f} | {row['p50']:.1f} | {row['p99']:.1f} "
                        f"| {row['cpu_us']:.0f} | {row['failed']:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
elif "BENCH_BROKER" in os.environ:
    app = create_app()
