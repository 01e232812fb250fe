"""What is delayed by less than workers take to look again is told to them: it starts on time, not up to 1 s late."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from helpers import OwnServer, Started, taskstream_command
from jobs import MODULE, Jobs
from script_cases import World

from taskstream import keys
from taskstream.broker import Broker, Envelope
from taskstream.broker.script import soon_call
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, encode_json, new_id
from taskstream_worker.forwarder import PROMOTE_S

S = "jobs"
HOUR_MS = 3_600_000

NEVER_BY_ITSELF = """
if "taskstream_worker.forwarder" in sys.modules:
    sys.modules["taskstream_worker.forwarder"].PROMOTE_S = 3600.0
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """A pool whose forwarder looks for what is due once an hour, and whenever it is told to."""
    (tmp_path / "valkey").mkdir()
    server = OwnServer(tmp_path / "valkey")

    def start(*arguments: str, cwd: Path, env: dict[str, str]) -> Started:
        return Started(taskstream_command(*arguments), cwd=cwd, env={**os.environ, **env}, output=tmp_path / "output")

    jobs = Jobs(tmp_path, server.url, start)
    (tmp_path / "jobs.py").write_text(MODULE + NEVER_BY_ITSELF, encoding="utf-8")
    pool = jobs.pool()
    yield jobs
    pool.remove()
    jobs.broker.close()
    server.stop()


def test_a_short_countdown_is_not_found_by_chance(jobs: Jobs) -> None:
    jobs.outcome(jobs.send("add", 1, 1))  # now it has looked for the first time
    delayed = {delay_ms: Message(new_id(), "jobs.add", encode_json({"args": [delay_ms, 1]})) for delay_ms in (900, 300)}
    for delay_ms, message in delayed.items():
        jobs.broker.send(Envelope(S, message, delay_ms=delay_ms))
    for delay_ms, message in delayed.items():
        outcome = jobs.outcome(message.id)
        assert outcome.sent_ms is not None and outcome.started_ms >= outcome.sent_ms + delay_ms


def test_only_what_is_sooner_than_all_others_is_told(world: World) -> None:
    broker = Broker(world.url)
    with redis.Redis.from_url(world.url) as client, client.pubsub() as heard:
        heard.subscribe(keys.CONTROL_CHANNEL)
        assert heard.get_message(timeout=5)
        soon_ms = int(PROMOTE_S * 1000)
        delays = (HOUR_MS, soon_ms + 500, soon_ms - 10, soon_ms, 300, 500)
        for delay_ms in delays:
            message = Message(new_id(), "n", b"{}")
            broker.send(Envelope(S, message, delay_ms=delay_ms))
            client.publish(keys.CONTROL_CHANNEL, delay_ms)
        said = []
        while len(said) < len(delays) or said[-1] != str(delays[-1]):
            found = heard.get_message(timeout=5)
            assert found is not None
            said.append(found["data"].decode())
    call = soon_call(S, QUEUE_GROUP).removeprefix(f"{keys.CONTROL_CHANNEL} ")
    assert said == [*map(str, delays[:2]), call, str(delays[2]), str(delays[3]), call, *map(str, delays[4:])]
    assert json.loads(call) == {"id": "", "command": "soon", "args": {"stream": S, "group": QUEUE_GROUP}}
    broker.close()
