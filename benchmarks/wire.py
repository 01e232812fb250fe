"""What other forms on the wire would save and cost: ids, MessagePack, compression, RESP3, shared round trips.

    python -m benchmarks.wire [--rounds 5] [--count 100000] [--only memory|encoding|protocol|together]

Nothing of this but the form that is used is in the product: these are the trials that decided (RESULTS.md). Ways that
are compared take turns, a figure is the median of the rounds. ``memory`` is the growth of the server's ``used_memory``
for each waiting message; zstd and lz4 are tried where ``zstandard`` and ``lz4`` are installed. Starts its own Valkey
unless given one with ``--broker URL``, which must hold nothing. JSON lines, then Markdown tables.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib
import itertools
import random
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from benchmarks.harness import Column, Figures, chosen, parser, server, turns, until
from taskstream import Taskstream
from taskstream.broker import Broker, Envelope
from taskstream.message import Message, new_id

STREAM = "wire-benchmark"
BODY = msgspec.json.encode({"kwargs": {"id": 123, "text": "hello world"}})
SIZES = (100, 1_000, 10_000, 100_000)

Fields = dict[str | bytes, str | bytes | int]


def rows_of(size: int) -> list[dict[str, Any]]:
    """Records as applications have them, whose JSON has about ``size`` bytes; always the same."""
    chosen = random.Random(1)
    words = ["".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(3, 9))) for _ in range(2000)]
    rows: list[dict[str, Any]] = []
    taken = 0
    while taken < size:
        row = {
            "id": len(rows),
            "sku": f"{chosen.getrandbits(32):08x}",
            "name": " ".join(chosen.choices(words, k=4)),
            "price": round(chosen.random() * 100, 2),
            "tags": chosen.choices(words, k=2),
        }
        rows.append(row)
        taken += len(msgspec.json.encode(row)) + 1
    return rows


def short_id() -> str:
    """A UUIDv7 in 22 characters."""
    return base64.urlsafe_b64encode(uuid.UUID(new_id()).bytes).rstrip(b"=").decode()


def compressors() -> dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """What is installed, each as a pair of compress and decompress."""
    found: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "zlib, level 1": (lambda raw: zlib.compress(raw, 1), zlib.decompress)
    }
    with contextlib.suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        found["zstd, level 1"] = (
            zstandard.ZstdCompressor(level=1).compress,
            zstandard.ZstdDecompressor().decompress,
        )
    with contextlib.suppress(ImportError):
        lz4 = importlib.import_module("lz4.frame")
        found["lz4"] = (lz4.compress, lz4.decompress)
    return found


def all_of(options: Any) -> argparse.Namespace:
    """The options for what a trial compares: ``--only`` has chosen among the trials."""
    return argparse.Namespace(rounds=options.rounds, only=None)


def memory(client: redis.Redis, options: Any) -> Figures:
    """Bytes for each waiting message by form of the entry."""
    figures = Figures(
        ["entry"], [Column("bytes", "bytes each"), Column("server_us", "server CPU µs each", 2)], options.out
    )

    def used() -> int:
        return int(client.info("memory")["used_memory"])

    def fill(entry: Callable[[], Fields], count: int) -> None:
        client.delete(STREAM)
        before, cpu = used(), client.info("cpu")["used_cpu_user"]
        for start in range(0, count, 100):
            pipeline = client.pipeline(transaction=False)
            for _ in range(start, min(start + 100, count)):
                pipeline.xadd(STREAM, entry())  # type: ignore[arg-type]
            pipeline.execute()
        spent = (client.info("cpu")["used_cpu_user"] - cpu) / count * 1e6
        figures.add({"entry": name, "bytes": (used() - before) / count, "server_us": spent})
        client.delete(STREAM)
        # Servers free large values beside their work.
        until(lambda: client.info("memory")["lazyfree_pending_objects"] == 0, "the stream is freed")

    plain: Callable[[], Fields] = lambda: {"v": "1", "id": new_id(), "name": "shop.noop", "body": BODY}  # noqa: E731
    packed = msgspec.msgpack.encode({"kwargs": {"id": 123, "text": "hello world"}})
    tracked = msgspec.json.encode({"request_id": str(uuid.uuid4()), "operation_id": str(uuid.uuid4())})
    forms: dict[str, Callable[[], Fields]] = {
        "as it is": plain,
        "without v": lambda: {"id": new_id(), "name": "shop.noop", "body": BODY},
        "id in 22 characters": lambda: {**plain(), "id": short_id()},
        "id in 16 bytes": lambda: {**plain(), "id": uuid.UUID(new_id()).bytes},
        "without id": lambda: {"v": "1", "name": "shop.noop", "body": BODY},
        "body in MessagePack": lambda: {**plain(), "body": packed},
        "with tracking headers": lambda: {**plain(), "headers": tracked},
        "every other one with tracking headers": lambda: {**plain(), "headers": tracked} if next(turn) % 2 else plain(),
    }
    turn = itertools.count()
    for name in forms:
        fill(forms[name], options.count)
    for size in SIZES[1:]:
        body = msgspec.json.encode({"kwargs": {"rows": rows_of(size)}})
        bodies = {"": body}
        for way, (compress, _) in compressors().items():
            bodies[f", {way}"] = compress(body)
            bodies[f", {way}, base64"] = base64.b64encode(compress(body))
        for suffix, one in bodies.items():
            name = f"body of {size:,} bytes{suffix}"
            fill(lambda one=one: {**plain(), "body": one}, max(1, options.count * 100 // size))  # type: ignore[misc]
    return figures


def encoding(client: redis.Redis, options: Any) -> Figures:
    """CPU of encoding and decoding a body, and its size, by form."""
    columns = [
        Column("bytes", "bytes"),
        Column("encode_us", "encode, CPU µs", 1),
        Column("decode_us", "decode, CPU µs", 1),
    ]
    figures = Figures(["size", "form"], columns, options.out)
    for size in SIZES:
        value = {"kwargs": {"rows": rows_of(size)}}
        raw = msgspec.json.encode(value)
        ways: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
            "JSON": (lambda value=value: msgspec.json.encode(value), msgspec.json.decode),  # type: ignore[misc]
            "MessagePack": (lambda value=value: msgspec.msgpack.encode(value), msgspec.msgpack.decode),  # type: ignore[misc]
        }
        for name, (compress, expand) in compressors().items():
            ways[f"{name}, on top of JSON"] = (lambda compress=compress, raw=raw: compress(raw), expand)  # type: ignore[misc]
        for form in turns(ways, all_of(options)):
            encode, decode = ways[form]
            made, repeats = encode(), max(5, 2_000_000 // size)
            start = time.process_time()
            for _ in range(repeats):
                encode()
            middle = time.process_time()
            for _ in range(repeats):
                decode(made)
            figures.add(
                {
                    "size": size,
                    "form": form,
                    "bytes": len(made),
                    "encode_us": (middle - start) / repeats * 1e6,
                    "decode_us": (time.process_time() - middle) / repeats * 1e6,
                }
            )
    return figures


def protocol(client: redis.Redis, options: Any) -> Figures:
    """CPU of a client for each message, sending one by one and reading 100 at once, by protocol."""
    columns = [Column("send_us", "XADD, CPU µs", 1), Column("read_us", "XREADGROUP 100, CPU µs each", 2)]
    figures = Figures(["protocol"], columns, options.out)
    group, count = "readers", 2_000
    clients = {}
    for version in (2, 3):
        pool = redis.ConnectionPool.from_url(options.url, protocol=version)
        connection = pool.make_connection()
        connection.connect()
        clients[f"RESP{version}"] = connection
    for name in turns(clients, all_of(options)):
        connection = clients[name]
        client.delete(STREAM)
        client.xgroup_create(STREAM, group, id="0", mkstream=True)

        def ask(*command: Any, connection: Any = connection) -> Any:
            connection.send_command(*command)
            return connection.read_response()

        start = time.process_time()
        for _ in range(count):
            ask("XADD", STREAM, "*", "v", "1", "id", new_id(), "name", "shop.noop", "body", BODY)
        middle = time.process_time()
        for _ in range(0, count, 100):
            ask("XREADGROUP", "GROUP", group, "me", "COUNT", 100, "STREAMS", STREAM, ">")
        end = time.process_time()
        figures.add(
            {"protocol": name, "send_us": (middle - start) / count * 1e6, "read_us": (end - middle) / count * 1e6}
        )
    client.delete(STREAM)
    return figures


class Waiting:
    """A message that one thread sends. ``turn`` is let go when it is sent, or when its thread is to send for all."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.sent = False
        self.turn = threading.Lock()
        self.turn.acquire()


class Together:
    """Threads that send at one time share a round trip: who comes while one is under way waits and goes with the next.

    No one waits for company: a message alone leaves at once.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: list[Waiting] = []

    def send(self, envelope: Envelope) -> None:
        """Return when Redis has it."""
        own = Waiting(envelope)
        with self._lock:
            self._waiting.append(own)
            follows, self._busy = self._busy, True
        if follows:
            own.turn.acquire()
            if own.sent:
                return
        with self._lock:
            taken, self._waiting = self._waiting, []
        self._broker.publish_many([one.envelope for one in taken])
        for one in taken:
            one.sent = True
            if one is not own:
                one.turn.release()
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._busy = following is not None
        if following is not None:
            following.turn.release()


def repeat(send: Callable[[], object], count: int) -> None:
    """Call it so often."""
    for _ in range(count):
        send()


def together(client: redis.Redis, options: Any) -> Figures:
    """Several threads of one process that send one by one, each by a round trip of its own and in shared ones."""
    columns = [Column("per_s", "messages/s"), Column("cpu_us", "producer CPU µs each", 1)]
    figures = Figures(["threads", "way"], columns, options.out)
    app = Taskstream(STREAM, broker=options.url)
    shared = Together(app.broker)

    def one() -> Envelope:
        return Envelope(STREAM, Message(new_id(), "shop.noop", BODY))

    ways: dict[str, Callable[[], object]] = {
        "each its own": lambda: app.broker.send(one()),
        "shared": lambda: shared.send(one()),
    }
    for threads in (1, 2, 4, 16):
        for way in turns(ways, all_of(options)):
            each = 4_000 // threads
            send = ways[way]
            started = [threading.Thread(target=repeat, args=(send, each)) for _ in range(threads)]
            begin, cpu = time.perf_counter(), time.process_time()
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()
            elapsed, spent = time.perf_counter() - begin, time.process_time() - cpu
            assert client.xlen(STREAM) == each * threads
            client.delete(STREAM)
            total = each * threads
            figures.add({"threads": threads, "way": way, "per_s": total / elapsed, "cpu_us": spent / total * 1e6})
    app.close()
    return figures


def main() -> None:
    """Measure and print."""
    made = parser(__doc__, rounds=5, count=100_000)
    made.add_argument("--broker")
    options = made.parse_args()
    trials: dict[str, Callable[[redis.Redis, Any], Figures]] = {
        "memory": memory,
        "encoding": encoding,
        "protocol": protocol,
        "together": together,
    }
    with server(options.broker) as options.url, redis.Redis.from_url(options.url) as client:
        found = [trials[name](client, options) for name in chosen(trials, options.only)]
    for figures in found:
        figures.show()


if __name__ == "__main__":
    main()
