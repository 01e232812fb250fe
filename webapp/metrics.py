"""``/metrics``: requests of all web processes, and queues and workers as Redis has them now (Prometheus text).

Several processes share their counts through files in the folder that ``PROMETHEUS_MULTIPROC_DIR`` names, set by the
server before anything here is imported (prometheus-client decides at import). Labels are bounded by what is
configured: routes, never paths.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from taskstream.broker import Broker
from taskstream.errors import BrokerUnavailable
from taskstream.inspector import Overview, overview

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

STARTED = "taskstream.started"
"""Key in the WSGI environment: ``perf_counter()`` when the request came in."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Requests:
    """Counts and times answers by route."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "taskstream_http_requests", "Answers given", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "taskstream_http_request_seconds",
            "Time from request to answer",
            ["route"],
            registry=registry,
            buckets=_BUCKETS,
        )
        # labels() costs more than the rest of a count, so what it returned is kept.
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        # The shared files are opened by the first count, which had better not be while answering somebody.
        self._count.labels("/healthz", "GET", 200)
        self._seconds.labels("/healthz")

    def observe(self, environ: WSGIEnvironment, rule: str | None, status: int) -> None:
        """Count one answer of the route ``rule``, None for a path that has none."""
        key = (rule or "unmatched", environ["REQUEST_METHOD"].upper(), status)
        found = self._known.get(key)
        if found is None:
            route, method, _ = key
            if method not in _METHODS:  # anybody may send any word
                key = (route, "other", status)
            found = self._known[key] = (self._count.labels(*key), self._seconds.labels(route))
        found[0].inc()
        started = environ.get(STARTED)
        if started is not None:
            found[1].observe(time.perf_counter() - started)


class Queues(Collector):
    """Reads the state of streams and workers from Redis at each scrape."""

    def __init__(self, broker: Broker, streams: Iterable[str]) -> None:
        self._broker = broker
        self._streams = sorted(set(streams))

    def collect(self) -> Iterator[Metric]:
        """The gauges; without a broker only the one that says so."""
        up = GaugeMetricFamily("taskstream_broker_up", "Whether the broker answered this scrape")
        try:
            found = overview(self._broker, self._streams)
        except BrokerUnavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _stream_gauges(found)
        yield from _worker_gauges(found)

    def describe(self) -> list[Metric]:
        """Nothing: asking Redis for the names when the registry is built would need it to be there."""
        return []


def _stream_gauges(found: Overview) -> Iterator[Metric]:
    length = GaugeMetricFamily("taskstream_stream_length", "Entries in a stream", labels=["stream"])
    messages = GaugeMetricFamily(
        "taskstream_messages", "Messages of a group by where they are", labels=["stream", "group", "state"]
    )
    oldest = GaugeMetricFamily(
        "taskstream_oldest_message_seconds", "Age of the oldest message not done", labels=["stream", "group"]
    )
    consuming = GaugeMetricFamily(
        "taskstream_group_consumers", "Consumers registered in a group", labels=["stream", "group"]
    )
    for stream in found.streams:
        if stream.problem is not None:
            continue
        length.add_metric([stream.name], stream.length)
        for group in stream.groups:
            labels = [stream.name, group.name]
            for state in ("waiting", "held", "delayed", "dead"):
                messages.add_metric([*labels, state], getattr(group, state))
            oldest.add_metric(labels, group.oldest_age_s or 0.0)
            consuming.add_metric(labels, group.consumers)
    yield from (length, messages, oldest, consuming)


def _worker_gauges(found: Overview) -> Iterator[Metric]:
    workers = GaugeMetricFamily("taskstream_workers", "Live worker processes by state", labels=["state"])
    states = [worker.state for worker in found.workers]
    for state in sorted({"running", *states}):
        workers.add_metric([state], states.count(state))
    running = GaugeMetricFamily("taskstream_running_messages", "Messages being handled now, in all workers")
    running.add_metric([], sum(worker.running for worker in found.workers))
    yield from (workers, running)


def _make(folder: str | None) -> None:
    """Make the folder of shared counts again: something may have cleaned up, and no request may fail for it."""
    if folder:
        os.makedirs(folder, mode=0o700, exist_ok=True)


def register(app: Flask, broker: Broker, streams: Iterable[str]) -> Callable[[WSGIEnvironment, str | None, int], None]:
    """Serve ``/metrics``; return what counts one answer: ``count(environ, route, status)``."""
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    _make(shared)
    own = CollectorRegistry()
    requests = Requests(own)
    queues = Queues(broker, streams)

    def metrics() -> Response:
        registry: Any = own
        if shared:
            _make(shared)
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        gauges = CollectorRegistry()
        gauges.register(queues)
        return Response(generate_latest(registry) + generate_latest(gauges), content_type=CONTENT_TYPE_LATEST)

    app.add_url_rule("/metrics", view_func=metrics)
    return requests.observe
