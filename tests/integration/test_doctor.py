"""``taskstream doctor``: each fault on a real server, and what is said about it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from helpers import free_port

from taskstream import doctor as module
from taskstream import keys
from taskstream.broker import Broker, health
from taskstream.broker.health import eviction_risk, missing_permissions, read_facts
from taskstream.cli.main import main
from taskstream.doctor import NOTE, PROBLEM, Finding, within
from taskstream.errors import ConfigError
from taskstream.link import Link
from taskstream.message import Message, new_id

Examine = Callable[..., list[Finding]]


@pytest.fixture
def server(server_url: str) -> Iterator[redis.Redis]:
    """An empty server of either kind, which gets its settings and users back."""
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
        names = ("maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save")
        before = {name: client.config_get(name)[name] for name in names}
        yield client
        for name, value in before.items():
            client.config_set(name, value)
        client.flushall()


@pytest.fixture
def examine(server: redis.Redis, server_url: str) -> Iterator[Examine]:
    broker = Broker(server_url)

    def look(level: str | None = PROBLEM) -> list[Finding]:
        return [one for one in module.examine_broker(broker) if level is None or one.level == level]

    yield look
    broker.close()


@pytest.fixture
def user(server: redis.Redis, server_url: str) -> Iterator[Callable[..., Link]]:
    """``user(rule, …)``: a connection of a user with these rules."""
    links = []

    def make(*rules: str) -> Link:
        server.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">secret", *rules)
        links.append(Link(server_url.replace("redis://", "redis://worker:secret@")))
        return links[-1]

    yield make
    for link in links:
        link.close()
    server.execute_command("ACL", "DELUSER", "worker")


def text_of(findings: list[Finding]) -> str:
    return "; ".join(f"{one.about}: {one.text} → {one.remedy}" for one in findings)


def safe(server: redis.Redis) -> None:
    """Persistence as it should be."""
    server.config_set("appendonly", "yes")
    server.config_set("appendfsync", "always")


# -- the server ------------------------------------------------------------------------------------------------


def test_a_sound_server_has_no_problem_and_nothing_is_changed(server: redis.Redis, examine: Examine) -> None:
    safe(server)
    found = examine(None)
    assert [(one.level, one.about) for one in found] == [(NOTE, "broker")]
    assert found[0].text.startswith(("Valkey ", "Redis 7.")) and " answers in " in found[0].text
    assert server.keys() == []


@pytest.mark.parametrize(
    ("settings", "level", "text"),
    [
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": 10**9}, PROBLEM, "so that a full server deletes queued work"),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": 10**9}, PROBLEM, "a full server deletes idempotency keys"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": 0}, NOTE, "without maxmemory nothing is evicted"),
        ({"maxmemory": 1}, PROBLEM, "of maxmemory is used"),
        ({"appendonly": "no", "save": ""}, PROBLEM, "nothing is kept on disk: a restart loses every message"),
        ({"appendonly": "no", "save": "60 1"}, PROBLEM, "a crash loses what came after the last snapshot"),
        ({"appendfsync": "no"}, PROBLEM, "appendfsync is no: a power cut loses"),
        ({"appendfsync": "everysec"}, NOTE, "appendfsync is everysec: a power cut may lose about the last 2 s"),
    ],
)
def test_a_setting_that_hurts(
    server: redis.Redis, examine: Examine, settings: dict[str, Any], level: str, text: str
) -> None:
    safe(server)
    for name, value in settings.items():
        server.config_set(name, value)
    (found,) = [one for one in examine(None) if text in one.text]
    assert found.level == level and found.remedy


def test_facts_that_no_server_here_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(**more: Any) -> Any:
        sound = health.ServerFacts("Redis", (7, 2, 4), "master", "noeviction", 0, 1, True, "always", True, False)
        return sound._replace(**more)

    link: Any = SimpleNamespace(call=lambda *command: b"PONG", replies=None)

    def told(**more: Any) -> str:
        monkeypatch.setattr(health, "read_facts", lambda replies: facts(**more))
        return text_of([one for one in module._server(link) if one.level == PROBLEM])

    assert told() == ""
    assert "Redis 6.2.14 is too old → use Redis 7.0 or Valkey 8.0 or later" in told(version=(6, 2, 14))
    assert told(product="Valkey", version=(8, 0, 0)) == "" and "too old" in told(product="Valkey", version=(7, 2, 5))
    assert "this is a replica" in told(role="slave")
    assert "its last write to disk failed" in told(write_error=True)
    # What cannot be asked is no problem
    assert told(policy=None, maxmemory=None, used_memory=None, aof=None, appendfsync=None, snapshots=None) == ""
    assert eviction_risk(facts(policy=None, maxmemory=5)) is None


def test_a_server_that_is_away(examine: Examine) -> None:
    broker = Broker(f"redis://127.0.0.1:{free_port()}")
    (found,) = module.examine_broker(broker)
    assert found.level == PROBLEM and "cannot be reached" in found.text and "--broker" in found.remedy


def test_a_wrong_password(server_url: str) -> None:
    broker = Broker(server_url.replace("redis://", "redis://nobody:wrong@"))
    (found,) = module.examine_broker(broker)
    assert found.level == PROBLEM and "refused the credentials" in found.text and "check its URL" in found.remedy


def test_a_clock_far_from_this_hosts(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr("taskstream.doctor.time.time", lambda: real() + 90)
    (found,) = [one for one in examine(NOTE) if "clock" in one.text]
    assert "its clock is 90.0 s behind this host's" in found.text or "its clock is 89." in found.text


# -- permissions -----------------------------------------------------------------------------------------------

EVERYTHING = ("~*", "&*", "+@all")
REFUSED = ("-xtrim", "-eval", "-xgroup|create", "-hset", "-zadd")
WITHOUT = ["EVAL", "HSET", "XGROUP CREATE", "XTRIM", "ZADD"]


@pytest.mark.parametrize("may_ask", [True, False])
def test_permissions_that_are_missing(user: Callable[..., Link], server: redis.Redis, may_ask: bool) -> None:
    more = () if may_ask else ("-acl",)
    assert missing_permissions(user(*EVERYTHING, *more).replies, "jobs") == []
    assert missing_permissions(user(*EVERYTHING, *REFUSED, *more).replies, "jobs") == WITHOUT
    # Keys and channels too
    link = user("~ts:*", "&*", "+@all", *more)
    assert ("XADD" in missing_permissions(link.replies, "jobs")) is may_ask
    assert "PUBLISH" in missing_permissions(user("~*", "resetchannels", "+@all", *more).replies, "jobs")
    assert server.keys() == []


def test_trying_commands_leaves_nothing_and_touches_no_stream(user: Callable[..., Link], server: redis.Redis) -> None:
    server.xadd("jobs", {"f": "v"})
    missing_permissions(user(*EVERYTHING, "-acl").replies, "jobs")
    assert server.keys() == [b"jobs"] and server.xlen("jobs") == 1


def test_a_user_who_may_ask_nothing(user: Callable[..., Link], server_url: str) -> None:
    link = user("~*", "&*", "+@all", "-info", "-config", "-xadd")
    assert read_facts(link.replies) is None
    broker = Broker(server_url.replace("redis://", "redis://worker:secret@"))
    found = list(module.examine_broker(broker))
    assert any("what it is cannot be asked" in one.text for one in found)
    assert "its user may not use XADD" in text_of([one for one in found if one.level == PROBLEM])
    broker.close()


# -- streams ---------------------------------------------------------------------------------------------------


def registered(server: redis.Redis, url: str, *, alive: bool) -> None:
    broker = Broker(url)
    broker.announce_subscriptions({"jobs": ("jobs", "taskstream")}, 60)
    if alive:
        one = {"label": "jobs", "stream": "jobs", "group": "taskstream", "state": "started"}
        about = {"name": "w", "host": "h", "pid": 1, "started_ms": 1, "state": "running", "concurrency": 1}
        broker.announce_worker("w", {**about, "subscriptions": [one]}, 60)
    server.xgroup_create("jobs", "taskstream", "0", mkstream=True)
    broker.close()


def test_messages_that_nobody_reads(server: redis.Redis, server_url: str, examine: Examine) -> None:
    safe(server)
    registered(server, server_url, alive=True)
    server.xgroup_create("jobs", "forgotten", "0")
    long_ago = int(time.time() * 1000) - 120_000
    server.xadd("jobs", {"id": "m"}, id=f"{long_ago}-1")
    # The group that a worker has is only behind; the other pins the stream
    (found,) = examine()
    assert found.about == "group forgotten of jobs" and "1 message waits and no worker reads them" in found.text
    assert "XGROUP DESTROY jobs forgotten removes the group, which loses its 1 message" in found.remedy
    server.xgroup_destroy("jobs", "forgotten")
    assert examine() == []
    server.delete(keys.WORKERS)
    (found,) = examine()
    assert found.about == "jobs" and "start a worker that has jobs" in found.remedy
    assert any("none is alive" in one.text for one in examine(NOTE))
    # By choice, or only just arrived, is no problem
    server.hset(keys.control("jobs", "taskstream"), mapping={"state": "stopped", "version": 1})
    assert examine() == [] and "it was stopped → taskstream control start jobs" in text_of(examine(NOTE))
    server.delete(keys.control("jobs", "taskstream"), "jobs")
    server.xgroup_create("jobs", "taskstream", "0", mkstream=True)
    server.xadd("jobs", {"id": "m"})
    assert examine() == []


def test_what_dead_workers_hold_is_one_problem(server: redis.Redis, server_url: str, examine: Examine) -> None:
    safe(server)
    registered(server, server_url, alive=False)
    for number in (1, 2):
        server.xadd("jobs", {"id": "m"}, id=f"{int(time.time() * 1000) - 120_000}-{number}")
    server.xreadgroup("taskstream", "gone", {"jobs": ">"}, count=1)
    server.zadd(keys.leases("jobs", "taskstream"), {"gone": 1})
    (found,) = examine()
    assert found.text.startswith("1 message waits, 1 message is still held by workers that are gone and no worker")


def test_a_queue_that_no_worker_ever_read(
    server: redis.Redis, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe(server)
    server.xadd("typo-queue", {"v": "1", "id": "m"})
    server.xadd("of-somebody-else", {"field": "1"})
    (found,) = examine()
    assert found.text == "1 message in queue typo-queue, which no worker has ever read"
    assert "taskstream worker -Q typo-queue" in found.remedy
    monkeypatch.setattr(Broker, "streams_there", lambda broker: ([], False))
    assert "not every key of it was looked at" in text_of(examine(NOTE))


def test_keys_that_hold_something_else(
    server: redis.Redis, server_url: str, examine: Examine, capsys: pytest.CaptureFixture[str]
) -> None:
    safe(server)
    registered(server, server_url, alive=True)
    broker = Broker(server_url)
    broker.announce_subscriptions({"prod": ("prod", "taskstream")}, 60)
    server.set("prod", "x")
    server.set(keys.delayed("jobs", "taskstream"), "x")
    found = examine()
    assert sorted(one.text.partition(": ")[2] for one in found) == [
        "key 'prod' holds another kind of value",
        "key 'ts:{jobs}:delayed:taskstream' holds another kind of value",
    ]
    assert all(one.remedy.endswith("delete or rename that key") for one in found)
    assert main(["queues", "--broker", server_url]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [
        ["jobs", "jobs", "taskstream", "started"],
        ["-", "prod", "-", "broken"],
    ]
    assert err.count("delete or rename that key") == 2
    # A producer is told the key as well
    with pytest.raises(ConfigError, match="key 'prod' holds another kind of value"):
        broker.publish("prod", Message(new_id(), "n", b"{}"))
    with pytest.raises(ConfigError, match="key 'prod' holds another kind"):
        broker.publish_once("prod", Message(new_id(), "n", b"{}"), keys.unique_key("k"))
    broker.close()
    server.set(keys.SUBSCRIPTIONS, "x")
    assert "key 'ts:subscriptions'" in text_of(examine())


def test_dead_consumers_and_dead_letters(server: redis.Redis, server_url: str, examine: Examine) -> None:
    safe(server)
    registered(server, server_url, alive=True)
    now = int(time.time() * 1000)
    leases = keys.leases("jobs", "taskstream")
    server.zadd(leases, {"alive": now + 5000, "just died": now - 20_000})
    assert examine() == []
    server.zadd(leases, {"dead": now - 120_000, "given up": 1})
    (found,) = examine()
    assert found.about == "jobs" and found.text.startswith("2 consumers are dead")
    server.delete(leases)
    server.zadd(keys.dead("jobs", "taskstream"), {"m1": 1, "m2": 2})
    assert examine() == [] and "jobs: 2 dead letters → see `taskstream dead list jobs`" in text_of(examine(NOTE))


# -- results ---------------------------------------------------------------------------------------------------


def results(url: str, base: Path) -> str:
    from taskstream.results import open_store

    store = open_store(url, base=base)
    assert store is not None
    try:
        return text_of(list(module.examine_results(store)))
    finally:
        store.close()


@pytest.mark.parametrize("scheme", ["file", "json"])
def test_a_folder_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr(module, "file_system", lambda folder: "ext4")
    assert results(f"{scheme}://made/later", tmp_path) == "" and not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    assert results(f"{scheme}://there", tmp_path) == "" and not list((tmp_path / "there").iterdir())
    monkeypatch.setattr("taskstream.doctor.shutil.disk_usage", lambda path: SimpleNamespace(free=5 << 20))
    assert "only 5 MiB are free on its disk" in results(f"{scheme}://there", tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").touch()
    assert "cannot be written: Not a directory" in results("json://a file/results", tmp_path)

    def refuse(**options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("taskstream.results.probe.tempfile.NamedTemporaryFile", refuse)
    assert f"{tmp_path} cannot be written: Permission denied → change its" in results("file://results", tmp_path)


MOUNTS = """\
overlay / overlay rw 0 0
server:/x /mnt/far nfs4 rw 0 0
server:/y /mnt/with\\040blank cifs rw 0 0
/dev/a /mnt/twice nfs rw 0 0
/dev/b /mnt/twice ext4 rw 0 0
odd
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/x", "overlay"),
        ("/mnt/far/results/later", "nfs4"),
        ("/mnt/farther", "overlay"),
        ("/mnt/with blank/a", "cifs"),
        ("/mnt/twice/a", "ext4"),
    ],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert module.file_system(Path(folder), tmp_path / "mounts") == kind
    assert module.file_system(Path(folder), tmp_path / "nowhere") is None


def test_a_database_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "file_system", lambda folder: "nfs4")
    assert "it is on a network file system (nfs4)" in results("file://results", tmp_path)
    assert results("json://results", tmp_path) == ""


def test_results_in_a_redis_that_is_away(tmp_path: Path) -> None:
    assert "cannot be read" in results(f"redis://127.0.0.1:{free_port()}/0", tmp_path)


# -- the command -----------------------------------------------------------------------------------------------


def test_the_command(
    server: redis.Redis,
    server_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    safe(server)
    sound = ["doctor", "--broker", server_url, "--results", "json://results"]
    assert main(sound) == 0
    out, err = capsys.readouterr()
    assert out.startswith("NOTE    broker: ") and out.count("\n") == 1
    assert err.endswith("taskstream: no problem\n") and f"taskstream: results json://{tmp_path}/results" in err
    server.config_set("maxmemory", 10**9)
    server.config_set("maxmemory-policy", "allkeys-lfu")
    assert main(["doctor", "--broker", server_url]) == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("PROBLEM ")]
    assert "maxmemory-policy is allkeys-lfu" in line and line.endswith("producers then get an error instead")
    assert "NOTE    results: not looked at: no result store" in out and err.endswith("taskstream: 1 problem\n")
    assert main([*sound, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {one["level"] for one in found} == {"note", "problem"}
    assert set(found[0]) == {"level", "about", "text", "remedy"}
    assert main(["doctor"]) == 2


def test_what_hangs_is_a_finding_too() -> None:
    ended = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield Finding(NOTE, "results", "first")
        ended.wait(60)

    found = list(within(0.2, "results", hangs()))
    ended.set()
    assert [(one.level, one.text) for one in found] == [
        (NOTE, "first"),
        (PROBLEM, "was not looked over within 0.2 s"),
    ]

    def fails() -> Iterator[Finding]:
        raise ValueError("defect")
        yield

    with pytest.raises(ValueError, match="defect"):
        list(within(5, "results", fails()))
