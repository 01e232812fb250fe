"""What docs/wire.md shows works as it stands there: other languages can produce messages."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import redis
from helpers import ROOT, need

from taskstream import Taskstream
from taskstream.message import Message, fields_of, from_fields

PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found


def messages(client: redis.Redis, stream: str) -> list[Message]:
    entries = client.xrange(stream)
    return [from_fields([part for pair in fields.items() for part in pair]) for _, fields in entries]


def test_the_lines_for_redis_cli(redis_client: redis.Redis, broker_url: str) -> None:
    program = need(shutil.which("redis-cli"), "redis-cli")
    outputs = []
    for block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[0] == "redis-cli"
            if "GROUPS" in words:
                redis_client.xgroup_create("my-stream", "process-message-group", "0")
            done = subprocess.run(
                [program, "-u", broker_url, *words[1:]], check=True, capture_output=True, text=True, timeout=10
            )
            assert "ERR" not in done.stdout
            outputs.append(done.stdout)
    assert messages(redis_client, "my-stream") == [
        Message("my-first-message", "MyMessage", b'{"text": "hello", "status": "NEW"}')
    ]
    assert messages(redis_client, "images") == [
        Message("thumbnail-of-a", "shop.thumbnail", b'{"args": ["a.png"], "kwargs": {"size": 64}}')
    ]
    assert outputs[-1].strip() == "1"


def test_the_producer_in_another_language(redis_client: redis.Redis, broker_url: str, tmp_path: Path) -> None:
    program = need(shutil.which("node"), "node")
    (code,) = blocks("js")
    assert len(code.splitlines()) <= 10
    assert "connect(6379," in code
    script = tmp_path / "produce.js"
    script.write_text(code.replace("connect(6379,", f"connect({urlsplit(broker_url).port},"), encoding="utf-8")
    done = subprocess.run([program, str(script)], check=True, capture_output=True, text=True, timeout=20)
    (message,) = messages(redis_client, "my-stream")
    assert message == Message(message.id, "MyMessage", b'{"text":"hello from Node","status":"NEW"}')
    assert uuid.UUID(message.id).version == 7
    assert done.stdout.startswith(f"{message.id} $")


def test_every_field_is_on_the_page() -> None:
    full = Message("1", "n", b"{}", {"request_id": "r"}, attempt=2, deliveries=1, sent_ms=1, priority=0, expires_ms=1)
    documented = re.findall(r"^\| `([a-z]+)` \| (yes|no) \|", PAGE, re.MULTILINE)
    assert [name for name, _ in documented] == fields_of(full)[::2]
    assert [name for name, needed in documented if needed == "yes"] == fields_of(Message("1", "n", b"{}"))[::2]


def test_a_waiting_call_takes_at_most_140_bytes(server_url: str) -> None:
    # Entries of one node share the names of their fields as long as these are the same, in the same order.
    def noop(id: int, text: str) -> None:
        """Is never run."""

    app = Taskstream("shop", broker=server_url)
    task = app.task(noop)
    with redis.Redis.from_url(server_url) as client:
        app.enqueue_many(task.s(id=123, text="hello world") for _ in range(500))  # connected, and the stream is there
        before = client.info("memory")["used_memory"]
        for _ in range(10):
            app.enqueue_many(task.s(id=123, text="hello world") for _ in range(2000))
        assert (client.info("memory")["used_memory"] - before) / 20_000 <= 140
        client.delete("shop")
    app.close()
