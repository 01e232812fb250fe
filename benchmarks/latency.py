"""How long an idle system takes from a POST being sent to its message having been processed.

    python benchmarks/latency.py [--count 500] [--per-second 50]

A POST event publishes to a stream; a STREAM event takes it and appends how long ago the request was sent (one host, one
clock) to a file. Results are kept on disk with fsync at every commit, log level WARNING, two worker processes, two web
processes. Prints JSON lines and a Markdown table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from taskstream.embedded import EmbeddedBroker

PORT = 8043
PATH = "/api/latency-app/1x0/send"
SEND = """
from taskstream.app.api import event_api
from taskstream.app.context import EventContext
from taskstream.dataobjects import dataobject

__steps__ = ["accept"]


@dataobject
class Stamp:
    sent: float


__api__ = event_api(payload=(Stamp, "when it was sent"), responses={200: (Stamp, "the same")})


def accept(stamp: Stamp, context: EventContext) -> Stamp:
    return stamp
"""
RECEIVE = """
import os
import time

from taskstream.app.context import EventContext

from .send import Stamp

__steps__ = ["take"]

log = os.open("latency.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def take(stamp: Stamp, context: EventContext) -> None:
    os.write(log, b"%.9f\\n" % (time.time() - stamp.sent))
"""


def write_app(folder: Path) -> None:
    """The app and its configuration."""
    package = folder / "latency_app"
    package.mkdir()
    for name, text in {"__init__": "", "send": SEND, "receive": RECEIVE}.items():
        (package / f"{name}.py").write_text(text)
    events = {
        "send": {"type": "POST", "write_stream": {"name": "latency"}},
        "receive": {"type": "STREAM", "read_stream": {"name": "latency", "consumer_group": "latency"}},
    }
    config = {"app": {"name": "latency-app", "version": "1.0"}, "events": events}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "server.json").write_text(json.dumps({"logging": {"log_level": "WARNING"}}))


def send(count: int, per_second: float) -> list[float]:
    """POST ``count`` times at a fixed pace over one connection; seconds each answer took."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    took = []
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
        sent = time.time()
        body = json.dumps({"sent": sent})
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"POST answered {response.status}")
        took.append(time.time() - sent)
    return took


def wait_until_served(process: subprocess.Popen[bytes]) -> None:
    """Until a request is answered."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            send(1, 1000)
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the system does not serve")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--per-second", type=float, default=50.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as broker:
        folder = Path(home)
        write_app(folder)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "taskstream.cli", "run", "--start-streams", "--port", str(PORT)),
                *("--config-files=server.json,config.json", "--broker", broker.url),
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until_served(process)
            send(50, options.per_second)
            before = len((folder / "latency.txt").read_text().split())
            answers = send(options.count, options.per_second)
            deadline = time.monotonic() + 10
            while True:
                found = [float(line) for line in (folder / "latency.txt").read_text().split()]
                if len(found) >= before + options.count or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait()
    processed = found[-options.count :]
    print("| idle, one message | p50 ms | p99 ms | most ms |\n|---|---:|---:|---:|")
    for name, values in (("POST answered", answers), ("POST sent to processed", processed)):
        cuts = statistics.quantiles(values, n=100)
        print(f"| {name} | {cuts[49] * 1000:.2f} | {cuts[98] * 1000:.2f} | {max(values) * 1000:.2f} |")


if __name__ == "__main__":
    main()
