"""How long an idle system takes from a POST being sent to its message having been processed.

    python -m benchmarks.latency [--count 500] [--per-second 50]

A POST event publishes to a stream; a STREAM event takes it and appends how long ago the request was sent (one host, one
clock) to a file. Results are kept on disk with fsync at every commit, log level WARNING, two worker processes, two web
processes.
"""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path

from benchmarks.apps import CONFIG_FILES, Files
from benchmarks.harness import Column, Figures, Pool, app_folder, parser, percentiles, server, until

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


EVENTS = {
    "send": {"type": "POST", "write_stream": {"name": "latency"}},
    "receive": {"type": "STREAM", "read_stream": {"name": "latency", "consumer_group": "latency"}},
}
APP: Files = {
    "latency_app/__init__.py": "",
    "latency_app/send.py": SEND,
    "latency_app/receive.py": RECEIVE,
    "config.json": {"app": {"name": "latency-app", "version": "1.0"}, "events": EVENTS},
    "server.json": {"logging": {"log_level": "WARNING"}},
}


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


def served() -> bool:
    """Whether a request is answered."""
    try:
        send(1, 1000)
    except OSError:
        return False
    return True


def waits(folder: Path) -> list[float]:
    """How long each message that was processed had been under way (s)."""
    return [float(line) for line in (folder / "latency.txt").read_text().split()]


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, count=500)
    command.add_argument("--per-second", type=float, default=50.0)
    options = command.parse_args()
    columns = [Column("p50_ms", "p50 ms", 2), Column("p99_ms", "p99 ms", 2), Column("max_ms", "most ms", 2)]
    figures = Figures(["idle, one message"], columns, options.out)
    with server() as url, app_folder(APP) as folder:
        wanted = ("run", "--start-streams", "--port", str(PORT), CONFIG_FILES, "--broker", url)
        system = Pool(wanted, folder)
        try:
            until(served, "the system serves", system)
            send(50, options.per_second)
            until(lambda: len(waits(folder)) >= 51, "the first are processed", system)
            answers = send(options.count, options.per_second)
            until(lambda: len(waits(folder)) >= options.count + 51, "all are processed", system)
            processed = waits(folder)[-options.count :]
        finally:
            system.stop()
    for name, values in (("POST answered", answers), ("POST sent to processed", processed)):
        figures.add({"idle, one message": name, **percentiles(values)})
    figures.show()


if __name__ == "__main__":
    main()
