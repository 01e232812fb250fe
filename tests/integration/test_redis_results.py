"""The Redis result store on a server that is stopped, restarted, emptied of its scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from helpers import OwnServer
from outcomes import outcome

from taskstream import Taskstream
from taskstream.errors import ConfigError, ResultUnavailable
from taskstream.message import new_id
from taskstream.results import ResultStoreError, open_store


def test_the_store_says_that_redis_is_away_and_goes_on_when_it_is_back(own_valkey: OwnServer, tmp_path: Path) -> None:
    store = open_store(own_valkey.url, base=tmp_path)
    assert store is not None
    first, second = outcome(new_id()), outcome(new_id())
    store.write([first])
    own_valkey.stop()
    with pytest.raises(ResultStoreError, match="did not keep a batch"):
        store.write([second])
    with pytest.raises(ResultUnavailable, match="cannot be read"):
        store.read(first.id)
    own_valkey.start()
    store.write([second])  # its scripts are gone as well
    assert store.read(first.id) == [first]
    assert store.read(second.id) == [second]
    store.close()


def test_one_hash_per_message_holds_the_outcomes_of_all_groups(
    broker_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    store = open_store(broker_url, base=tmp_path)
    assert store is not None
    message_id = new_id()
    store.write([outcome(message_id, group="a", delivery=3), outcome(message_id, group="b")])
    assert redis_client.dbsize() == 1
    records = redis_client.hgetall(f"ts:{{{message_id}}}:outcomes")
    assert records[b"a"].startswith(b'3 {"id":')
    store.close()


def test_redis_alone_is_the_server_of_the_broker(broker_url: str, redis_client: redis.Redis) -> None:
    app = Taskstream("shop", broker=broker_url, results="redis://")
    assert app.results is not None
    message_id = new_id()
    app.results.write([outcome(message_id)])
    assert redis_client.exists(f"ts:{{{message_id}}}:outcomes")
    app.close()


def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    store = open_store("redis://user:secret@127.0.0.1:1/0", base=tmp_path)
    assert store is not None
    with pytest.raises(ResultStoreError) as raised:
        store.write([outcome(new_id())])
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError) as refused:
        open_store("redis://user:secret@host:port", base=tmp_path)
    assert "secret" not in str(refused.value)
