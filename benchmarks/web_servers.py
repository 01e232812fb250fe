"""Which server carries the web app best: the same minimal Flask app, one XADD for each POST.

    python -m benchmarks.web_servers [--seconds 5] [--clients 16] [--only granian]

Needs the packages that are named in `servers`. Starts its own Valkey. CPU is user + system time of the server's whole
process tree, divided by the requests it answered.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

import flask
import redis

from benchmarks.harness import ROOT, Column, Figures, chosen, cpu_s, parser, server, until
from benchmarks.http_load import drive, post_request

APP = "benchmarks.web_servers:app"
BODY = b'{"text": "valid text", "size": 10}'
PYWSGI = """
import gevent.monkey; gevent.monkey.patch_all()
import socket
from gevent import pywsgi
from benchmarks.web_servers import app
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
    found: dict[str, list[str]] = {}
    for workers, threads in ((1, 1), (1, 16), (2, 1), (2, 8), (2, 32), (2, 128)):
        found[f"granian, {workers} processes, {threads} threads"] = [
            *(python, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--workers", str(workers)),
            *("--blocking-threads", str(threads), "--no-log", "--http", "1", APP),
        ]
    for workers in (1, 2):
        found[f"gunicorn gevent, {workers} processes"] = [
            *(
                python,
                "-m",
                "gunicorn",
                "-k",
                "gevent",
                "-w",
                str(workers),
                "-b",
                address,
                APP,
            ),
        ]
    found["gunicorn gthread, 2 processes, 16 threads"] = [
        *(
            python,
            "-m",
            "gunicorn",
            "-k",
            "gthread",
            "--threads",
            "16",
            "-w",
            "2",
            "-b",
            address,
            APP,
        ),
    ]
    for nodelay in (0, 1):
        found[f"gevent.pywsgi, 1 process, TCP_NODELAY {nodelay}"] = [
            *(python, "-c", PYWSGI.format(port=port, nodelay=nodelay)),
        ]
    return found


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether something accepts connections at ``port``."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def measure(command: Sequence[str], port: int, broker: str, clients: int, seconds: int) -> dict[str, float]:
    """Start one server, warm it up, measure it, stop it."""
    environment = {**os.environ, "BENCH_BROKER": broker}
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        until(lambda: process.poll() is not None or listens(port), "the server listens")
        if process.poll() is not None:
            raise SystemExit(f"{command!r} ended with {process.returncode}")
        request = post_request(port, "/publish", BODY)
        drive(port, request, clients, 1.0)
        before = cpu_s(process.pid)
        found = drive(port, request, clients, seconds)
        return {
            "per_s": found.per_s,
            "p50_ms": found.p50_ms,
            "p99_ms": found.p99_ms,
            "cpu_us": (cpu_s(process.pid) - before) / found.requests * 1e6,
            "client_us": found.client_cpu_us,
            "failed": found.failed,
        }
    finally:
        process.terminate()
        process.wait(20)


COLUMNS = (
    Column("per_s", "POST/s"),
    Column("p50_ms", "p50 ms", 1),
    Column("p99_ms", "p99 ms", 1),
    Column("cpu_us", "CPU µs/request"),
    Column("client_us", "client CPU µs/request"),
    Column("failed", "failed"),
)


def main() -> None:
    """Measure every candidate and print a table."""
    options = parser(__doc__, seconds=5, clients=16).parse_args()
    names = ("flask", "redis", "granian", "gunicorn", "gevent")
    print("Python", sys.version.split()[0], *(f"· {name} {importlib.metadata.version(name)}" for name in names))
    figures = Figures(["server"], COLUMNS, options.out)
    with server() as url, redis.Redis.from_url(url) as client:
        for name in chosen(servers(0), options.only):
            port = free_port()
            found = measure(servers(port)[name], port, url, options.clients, options.seconds)
            client.flushall()
            figures.add({"server": name, **found})
    figures.show()


if __name__ == "__main__":
    main()
elif "BENCH_BROKER" in os.environ:
    app = create_app()
