"""Outboxes of real processes before a real server that dies: every accepted message arrives once and in order."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from box import patience
from disks import SmallDisk
from helpers import OwnServer, Started, eventually
from proxy import FaultyProxy

from taskstream import BrokerUnavailable, QueueFull, Taskstream
from taskstream.connection import PRODUCER

SCRIPT = """
import sys
import time
from pathlib import Path
from typing import Any
if "gevent" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
from taskstream import Taskstream

HERE = Path(__file__).parent
name, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
app = Taskstream("shop", broker=url, outbox="file://outbox")

@app.task
def add(name: str, number: int) -> int:
    return number

with open(HERE / f"accepted-{name}", "w", buffering=1) as accepted:
    for number in range(count):
        accepted.write(add.delay(name, number).id + "\\n")
if "stay" in sys.argv:
    while not (HERE / "end").exists():
        time.sleep(0.02)
"""

StartProducer = Callable[..., Started]


@pytest.fixture
def start_producer(tmp_path: Path, start_process: Callable[..., Started]) -> StartProducer:
    """``start_producer(name, url, count, *words)``: a process that sends ``count`` calls."""
    (tmp_path / "producer.py").write_text(SCRIPT)

    def start(name: str, url: str, count: int, *words: str) -> Started:
        arguments = [sys.executable, "-W", "error", "producer.py", name, url, str(count), *words]
        return start_process(arguments, env={"TASKSTREAM_LOG_LEVEL": "WARNING"})

    return start


@pytest.fixture
def proxy(own_valkey: OwnServer) -> Iterator[FaultyProxy]:
    made = FaultyProxy(own_valkey.url)
    yield made
    made.close()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Callable[[str], Taskstream]]:
    """``app(url)``: the same app in this process."""
    made: list[Taskstream] = []

    def make(url: str, **options: int) -> Taskstream:
        found = Taskstream("shop", broker=url, outbox=f"file://{tmp_path / 'outbox'}", **options)  # type: ignore[arg-type]
        found.task(name="shop.add")(lambda name, number: number)
        made.append(found)
        return found

    yield make
    for one in made:
        one.close()


def accepted(tmp_path: Path, name: str) -> list[str]:
    path = tmp_path / f"accepted-{name}"
    return path.read_text().split() if path.exists() else []


def arrived(url: str) -> list[tuple[str, str, int]]:
    """Id and arguments of every entry, in order."""
    with redis.Redis.from_url(url) as client:
        found = []
        for _, fields in client.xrange("shop"):
            name, number = json.loads(fields[b"body"])["args"]
            found.append((fields[b"id"].decode(), name, number))
        return found


def numbers(url: str, name: str) -> list[int]:
    return [number for _, sender, number in arrived(url) if sender == name]


def test_three_processes_lose_nothing_when_the_server_is_killed(
    start_producer: StartProducer, own_valkey: OwnServer, tmp_path: Path
) -> None:
    # Given three processes that send, and a server that dies while they do
    names, count = ["a", "b", "c"], 667
    started = [start_producer(name, own_valkey.url, count, "stay") for name in names]
    eventually(lambda: sum(len(accepted(tmp_path, name)) for name in names) > 300, patience(20))
    own_valkey.kill()
    before = {name: len(accepted(tmp_path, name)) for name in names}
    # When they have sent on for a while without it, and it is back
    eventually(lambda: all(len(accepted(tmp_path, name)) > before[name] + 20 for name in names), patience(20))
    own_valkey.start()
    # Then everything that was accepted is in the stream exactly once, and in the order of each process
    eventually(lambda: all(len(accepted(tmp_path, name)) == count for name in names), patience(40))
    eventually(lambda: len(arrived(own_valkey.url)) >= 3 * count, patience(30), lambda: started[0].output)
    (tmp_path / "end").touch()
    for process in started:
        assert process.wait(patience(10)) == 0, process.output
    found = arrived(own_valkey.url)
    for name in names:
        assert [one for one, sender, _ in found if sender == name] == accepted(tmp_path, name)
        assert numbers(own_valkey.url, name) == list(range(count))


@pytest.mark.parametrize("word", ["threads", "gevent"])
def test_what_a_killed_process_left_is_sent_by_the_next(
    start_producer: StartProducer, own_valkey: OwnServer, tmp_path: Path, word: str
) -> None:
    own_valkey.stop()
    first = start_producer("first", own_valkey.url, 20, "stay", word)
    eventually(lambda: len(accepted(tmp_path, "first")) == 20, patience(20), lambda: first.output)
    first.send(signal.SIGKILL)
    first.wait()
    own_valkey.start()
    assert not arrived(own_valkey.url)
    # The next one sends it before its own, and ends only when all is sent
    second = start_producer("second", own_valkey.url, 5, word)
    assert second.wait(patience(20)) == 0, second.output
    sent = [one for one, _, _ in arrived(own_valkey.url)]
    assert sent == accepted(tmp_path, "first") + accepted(tmp_path, "second")


def test_a_lost_reply_is_sent_once(app: Callable[[str], Taskstream], own_valkey: OwnServer, proxy: FaultyProxy) -> None:
    add = app(proxy.url).tasks["shop.add"]
    add.delay("x", 0)
    # The first reply to this call gets lost, then the one to the repeat
    proxy.lose_reply_to(b"EVALSHA")
    ids = [add.delay("x", 1).id]
    eventually(lambda: proxy.lost == 1)
    proxy.lose_reply_to(b"EVALSHA")
    ids += [add.delay("x", number).id for number in (2, 3)]
    eventually(lambda: numbers(own_valkey.url, "x") == [0, 1, 2, 3])
    assert [one for one, _, _ in arrived(own_valkey.url)][1:] == ids


def test_a_batch_that_breaks_off_goes_on_from_the_outbox(
    app: Callable[[str], Taskstream], own_valkey: OwnServer, proxy: FaultyProxy
) -> None:
    shop = app(proxy.url)
    add = shop.tasks["shop.add"]
    add.delay("x", 0)
    proxy.lose_command(b'["x",250]')
    handles = shop.enqueue_many(add.s("x", number) for number in range(1, 600))
    eventually(lambda: len(arrived(own_valkey.url)) == 600)
    assert numbers(own_valkey.url, "x") == list(range(600)) and proxy.lost == 1
    assert [one for one, _, _ in arrived(own_valkey.url)][1:] == [handle.id for handle in handles]


def test_a_full_queue_is_waited_for_in_order(app: Callable[..., Taskstream], own_valkey: OwnServer) -> None:
    shop = app(own_valkey.url, max_length=3)
    add = shop.tasks["shop.add"]
    own_valkey.kill()
    for number in range(5):
        add.delay("x", number)
    own_valkey.start()
    with redis.Redis.from_url(own_valkey.url) as client:
        eventually(lambda: client.xlen("shop") == 3)
        # Behind what waits, and not refused
        add.delay("x", 5)
        client.xtrim("shop", maxlen=0)
        eventually(lambda: numbers(own_valkey.url, "x") == [3, 4, 5])
        # Nothing waits any more: full is full
        eventually(lambda: not shop.outbox.waiting() if shop.outbox else False)
        with pytest.raises(QueueFull):
            add.delay("x", 6)


def test_an_outbox_that_cannot_be_written_is_told(tmp_path: Path, own_valkey: OwnServer) -> None:
    (tmp_path / "file").touch()
    shop = Taskstream("shop", broker=own_valkey.url, outbox=f"file://{tmp_path / 'file' / 'outbox'}")
    add = shop.task(name="add")(lambda number: number)
    with pytest.raises(BrokerUnavailable, match=r"outbox .*shop\.sqlite3: "):
        add.delay(1)
    shop.close()
    assert PRODUCER.connect_timeout == 2.0


def test_the_command_lists_and_sends_what_was_left(
    start_producer: StartProducer, own_valkey: OwnServer, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (tmp_path / "shop.py").write_text(
        "from taskstream import Taskstream\n"
        f"app = Taskstream('shop', broker='{own_valkey.url}', outbox='file://outbox')\n"
        "app.task(name='add')(lambda number: number)\nnone = Taskstream('none')\n"
    )
    # Given nothing, and then what a killed process left
    done = run_cli("outbox", "list", "-A", "shop")
    assert (done.returncode, done.stdout) == (0, "") and "nothing waits" in done.stderr
    own_valkey.stop()
    process = start_producer("first", own_valkey.url, 3, "stay")
    eventually(lambda: len(accepted(tmp_path, "first")) == 3, patience(20), lambda: process.output)
    process.send(signal.SIGKILL)
    process.wait()
    # When it is listed and sent, without a broker and with one
    (found,) = json.loads(run_cli("outbox", "list", "-A", "shop", "--json").stdout)
    assert (found["queue"], found["waiting"]) == ("shop", 3) and found["oldest_age_s"] >= 0
    done = run_cli("outbox", "flush", "-A", "shop")
    assert (done.returncode, done.stdout) == (1, "sent 0, 3 waiting\n"), done.stderr
    assert "not all could be sent: broker redis://" in done.stderr and done.stderr.count("cannot be reached") == 1
    own_valkey.start()
    done = run_cli("outbox", "flush", "-A", "shop")
    assert (done.returncode, done.stdout) == (0, "sent 3, 0 waiting\n"), done.stderr
    assert [one for one, _, _ in arrived(own_valkey.url)] == accepted(tmp_path, "first")
    done = run_cli("outbox", "list", "-A", "shop:none")
    assert done.returncode == 2 and "shop:none has no outbox" in done.stderr
    (tmp_path / "shop.py").write_text(
        "from taskstream import Taskstream\napp = Taskstream('shop', outbox='file://shop.py/outbox')\n"
    )
    done = run_cli("outbox", "list", "-A", "shop")
    assert done.returncode == 2 and f"because {tmp_path / 'shop.py'} is none" in done.stderr


def test_processes_killed_while_they_send_what_waits(
    start_producer: StartProducer, own_valkey: OwnServer, tmp_path: Path
) -> None:
    # Given 300 messages in the outbox
    own_valkey.stop()
    first = start_producer("first", own_valkey.url, 300, "stay")
    eventually(lambda: len(accepted(tmp_path, "first")) == 300, patience(30), lambda: first.output)
    first.send(signal.SIGKILL)
    first.wait()
    own_valkey.start()
    # When each process that sends them is killed as soon as some are through
    for number, enough in enumerate((1, 120, 240)):
        process = start_producer(f"next{number}", own_valkey.url, 1_000_000)
        eventually(lambda n=enough: len(arrived(own_valkey.url)) >= n, patience(20), lambda p=process: p.output)
        process.send(signal.SIGKILL)
        process.wait()
    last = start_producer("last", own_valkey.url, 1)
    assert last.wait(patience(20)) == 0, last.output
    # Then all that was accepted is there once and in order
    ids = [one for one, _, _ in arrived(own_valkey.url)]
    assert len(ids) == len(set(ids))
    assert ids[:300] == accepted(tmp_path, "first")
    for name in ("next0", "next1", "next2", "last"):
        kept = set(accepted(tmp_path, name))
        assert [one for one in ids if one in kept] == accepted(tmp_path, name)


def test_a_full_disk_refuses_and_keeps_what_it_had(own_valkey: OwnServer, small_disk: SmallDisk) -> None:
    # Given an outbox on a disk that is full while the server is away
    shop = Taskstream("shop", broker=own_valkey.url, outbox=f"file://{small_disk.folder}/outbox")
    add = shop.task(name="shop.add")(lambda name, number: number)
    own_valkey.stop()
    ids = [add.delay("x", 0).id]
    small_disk.fill()
    with pytest.raises(BrokerUnavailable, match=r"shop\.sqlite3: the disk is full: free some space") as caught:
        for number in range(1, 1000):
            ids.append(add.delay("x", number).id)
    assert not caught.value.maybe_sent
    # When there is room again, and the server
    small_disk.free()
    ids.append(add.delay("x", 1000).id)
    own_valkey.start()
    # Then exactly what was accepted arrives
    eventually(lambda: len(arrived(own_valkey.url)) >= len(ids), patience(20))
    shop.close()
    assert [one for one, _, _ in arrived(own_valkey.url)] == ids
