"""The example app over both stages, with real processes: whatever is killed in between, each parcel gets its label."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import START_S, Box, patience
from helpers import ROOT, OwnServer, eventually

from taskstream.message import derived_id

SCAN = "/api/parcels/1x0/scan-parcel"
SORTING = ("parcel-scans", "sorting")
LABELS = ("sorted-parcels", "labels")


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Box]:
    """The running example."""
    (tmp_path / "valkey").mkdir()
    server = OwnServer(tmp_path / "valkey")
    box = Box(str(ROOT / "examples" / "parcels"), tmp_path / "app", server)
    try:
        box.start(ready=False)
        eventually(lambda: box.ask("GET", "/readyz").status == 200, START_S, lambda: box.output)
        for stream in (SORTING, LABELS):
            eventually(lambda s=stream: len(box.consumer_names(*s)) == len(box.workers()) > 0, START_S)
        yield box
    finally:
        box.remove()
        server.stop()


def scan(box: Box, parcel: str) -> str:
    """Report a parcel; return the request id."""
    answer = box.ask("POST", SCAN, {"parcel": parcel, "postcode": "22305", "weight_kg": 2.4})
    assert answer.status == 202, answer.text
    return answer.headers["x-track-request-id"]


def labels(box: Box) -> dict[str, list[str]]:
    folder = box.folder / "labels"
    found = [json.loads(path.read_bytes()) for path in folder.glob("*.json")] if folder.exists() else []
    return {label["parcel"]: label["lines"][:2] for label in found}


def added(box: Box, stream: str) -> int:
    """How many messages a stream was ever given."""
    with box.redis() as client:
        return int(client.xinfo_stream(stream)["entries-added"])


def consumption(box: Box, event: str, action: str) -> None:
    assert box.ask("POST", f"/mgmt/parcels/1x0/{event}/{action}").status == 200


def test_no_parcel_is_lost_between_the_stages(depot: Box) -> None:
    # Given parcels that are sorted, and labels that are not printed yet
    consumption(depot, "print-label", "stop")
    first = [f"PX-{number}" for number in range(1000, 1030)]
    for parcel in first:
        scan(depot, parcel)
    eventually(lambda: added(depot, "sorted-parcels") == len(first), patience(10), lambda: depot.output)
    eventually(lambda: depot.at_rest(*SORTING), patience(5))
    # When every worker process is killed between the stages
    before = depot.workers()
    for process in before:
        process.kill()
    consumption(depot, "print-label", "start")
    # And again and again while more parcels come
    more = [f"PX-{number}" for number in range(2000, 2120)]
    posting = threading.Thread(target=lambda: [scan(depot, parcel) for parcel in more])
    posting.start()
    for share in (0.2, 0.5, 0.8):
        count = int(share * len(more))
        eventually(lambda n=count: len(labels(depot)) - len(first) >= n, START_S, lambda: depot.output)
        eventually(depot.workers, START_S)[0].kill()
    posting.join(START_S)
    # Then every parcel has its label
    expected = {parcel: [parcel, "lane 22-L"] for parcel in [*first, *more]}
    eventually(lambda: labels(depot) == expected, START_S, lambda: depot.output[-4000:])
    for stream in (SORTING, LABELS):
        eventually(lambda s=stream: depot.at_rest(*s), START_S)
        assert depot.letters(*stream) == {}
    # And none was sorted to the second stage twice, whatever ran again
    assert added(depot, "sorted-parcels") == len(expected)


def test_a_stage_that_runs_again_publishes_nothing_twice(depot: Box) -> None:
    # Given a scan whose message is known
    consumption(depot, "sort-parcel", "stop")
    consumption(depot, "print-label", "stop")
    request_id = scan(depot, "PX-7777")
    with depot.redis() as client:
        ((_, message),) = client.xrange("parcel-scans")
        # When it is delivered twice, as after a crash before the acknowledgement
        client.xadd("parcel-scans", message)
    consumption(depot, "sort-parcel", "start")

    def sorted_twice() -> bool:
        return sum(" sort-parcel " in line and "| DONE |" in line for line in depot.lines(request_id)) == 2

    eventually(sorted_twice, patience(10), lambda: depot.output)
    eventually(lambda: depot.at_rest(*SORTING), patience(5))
    # Then the next stage has one message, whose id follows from the first one's
    with depot.redis() as client:
        ((_, successor),) = client.xrange("sorted-parcels")
    assert successor[b"id"].decode() == derived_id(message[b"id"].decode(), "parcels.1x0.sort-parcel:sorting")
    assert json.loads(successor[b"headers"])["request_id"] == request_id
    # And its outcome carries the request it came from
    consumption(depot, "print-label", "start")
    outcome = eventually(lambda: depot.outcome(request_id, "print-label"), patience(10))
    assert (outcome.id, outcome.state, outcome.request_id) == (successor[b"id"].decode(), "SUCCESS", request_id)
    assert list(labels(depot)) == ["PX-7777"]


def test_a_broker_without_memory_is_worked_empty_through_both_stages(depot: Box) -> None:
    # Given parcels whose sorting waits when the broker is full
    for worker in depot.workers():
        worker.suspend()
    parcels = [f"PX-{number}" for number in range(3000, 3020)]
    for parcel in parcels:
        scan(depot, parcel)
    with depot.redis() as client:
        client.config_set("maxmemory", 1)
        for worker in depot.workers():
            worker.resume()
        # Then new ones are refused, and those get their labels all the same
        answer = depot.ask("POST", SCAN, {"parcel": "PX-9999", "postcode": "22305", "weight_kg": 2.4})
        assert answer.status == 503, answer.text
        eventually(lambda: sorted(labels(depot)) == parcels, START_S, lambda: depot.output[-4000:])
        client.config_set("maxmemory", 0)
