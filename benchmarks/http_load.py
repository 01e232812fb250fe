"""A load client of the standard library alone that costs little itself: keep-alive connections, one request on each.

One thread, one ``epoll``, requests made once and sent as they are, answers told apart by their length. Used by
post.py; it costs about a tenth of what the cheapest server here does, so that it leaves the processors to them.
"""

from __future__ import annotations

import re
import resource
import select
import socket
import time
from typing import NamedTuple

LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
END = b"\r\n\r\n"


class Load(NamedTuple):
    """What a run found. Latencies are ms from a request's being sent to its answer's last byte."""

    requests: int
    failed: int
    seconds: float
    client_cpu_us: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def post_request(port: int, path: str, body: bytes) -> bytes:
    """The bytes of one POST of JSON to this machine."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def whole(answer: bytes) -> int:
    """The length of the answer that these bytes begin with; 0 as long as its head is not there."""
    head, found, _ = answer.partition(END)
    if not found:
        return 0
    length = LENGTH.search(head)
    if length is None:
        raise SystemExit(f"an answer without a length: {answer[:300]!r}")
    return len(head) + len(END) + int(length[1])


def drive(port: int, request: bytes, clients: int, seconds: float, ok: bytes = b"HTTP/1.1 20") -> Load:
    """Keep one request under way on each of ``clients`` connections for ``seconds``; answers begin with ``ok``."""
    poll = select.epoll()
    by_number: dict[int, socket.socket] = {}
    for _ in range(clients):
        made = socket.create_connection(("127.0.0.1", port), timeout=10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        by_number[made.fileno()] = made
        poll.register(made, select.EPOLLIN)
    clock = time.perf_counter
    sent: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    taken: list[float] = []
    failed = usual = 0
    cpu = _cpu_s()
    began = clock()
    until = began + seconds
    for number, made in by_number.items():
        sent[number] = clock()
        made.send(request)
    under_way = clients
    while under_way:
        ready = poll.poll(10)
        if not ready:
            raise SystemExit(f"{under_way} requests had no answer within 10 s")
        for number, _ in ready:
            made = by_number[number]
            answer = made.recv(65_536)
            now = clock()
            if not answer:
                raise SystemExit("the server closed a connection")
            if parts:
                answer = parts.pop(number, b"") + answer
            # Nearly all answers have one length; the others are looked into.
            if len(answer) != usual:
                usual = whole(answer)
                if usual != len(answer):
                    parts[number] = answer
                    continue
            taken.append(now - sent[number])
            if not answer.startswith(ok):
                failed += 1
            if now < until:
                sent[number] = now
                made.send(request)
            else:
                under_way -= 1
    elapsed = clock() - began
    cpu = _cpu_s() - cpu
    for made in by_number.values():
        made.close()
    poll.close()
    taken.sort()
    count = len(taken)
    at = [taken[min(count - 1, int(count * part))] * 1000 for part in (0.5, 0.99, 1.0)]
    return Load(count, failed, elapsed, cpu / count * 1e6, *at)


def _cpu_s() -> float:
    """CPU of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
