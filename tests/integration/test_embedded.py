"""The embedded Valkey server: real processes, real signals."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import Started, alive, eventually, free_port

from taskstream import processes
from taskstream.embedded import EmbeddedBroker, running_broker_url
from taskstream.errors import ConfigError

HOLDER = """
import sys, time
from pathlib import Path
from taskstream import embedded, processes
processes.PARENT_DEATH = sys.argv[2]
broker = embedded.EmbeddedBroker(Path(sys.argv[1]), appendfsync="always")
broker.start()
print(broker.pid, broker.url, flush=True)
time.sleep(300)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    server = EmbeddedBroker(tmp_path, appendfsync="always")
    yield server
    server.kill()


def hold(start_process: Callable[..., Started], folder: Path, parent_death: str = "signal") -> tuple[Started, int, str]:
    """Another process that has an embedded broker in ``folder``: the process, the server's pid and URL."""
    holder = start_process([sys.executable, "-c", HOLDER, str(folder), parent_death])
    line = eventually(lambda: holder.output if holder.output.endswith("\n") else "", message="broker is up")
    pid, url = line.split()
    return holder, int(pid), url


def test_keeps_its_data_over_a_restart(tmp_path: Path, broker: EmbeddedBroker) -> None:
    # Given a message in a running broker
    broker.start()
    with redis.Redis.from_url(broker.url) as client:
        client.xadd("orders", {"body": "1"})
        settings = client.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["bind"] == "127.0.0.1"
    # When it is stopped and another one is started in the same folder
    pid = broker.pid
    assert pid is not None
    broker.stop()
    assert not alive(pid)
    assert not (tmp_path / ".taskstream" / "broker.json").exists()
    # Then the message is there
    with EmbeddedBroker(tmp_path) as second, redis.Redis.from_url(second.url) as client:
        assert client.xlen("orders") == 1


def test_keeps_its_data_when_the_server_is_killed_in_mid_write(tmp_path: Path, broker: EmbeddedBroker) -> None:
    broker.start()
    with redis.Redis.from_url(broker.url) as client:
        client.xadd("orders", {"body": "1"})
    broker.kill()
    # A torn last write, as a crash leaves it
    (log,) = (tmp_path / ".taskstream" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*5\r\n$4\r\nXADD\r\n$6\r\nord")
    with EmbeddedBroker(tmp_path) as second, redis.Redis.from_url(second.url) as client:
        assert client.xlen("orders") == 1


def test_unreadable_data_is_one_clear_line(tmp_path: Path, broker: EmbeddedBroker) -> None:
    broker.start()
    broker.stop()
    manifest = tmp_path / ".taskstream" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("this is no manifest\n")
    with pytest.raises(ConfigError, match=r"did not start \(exit status 1\).*valkey\.log") as error:
        broker.start()
    assert "\n" not in str(error.value)
    assert broker.pid is None


def test_says_where_it_runs(tmp_path: Path, broker: EmbeddedBroker) -> None:
    assert running_broker_url(tmp_path) is None
    broker.start()
    assert running_broker_url(tmp_path) == broker.url
    said = json.loads((tmp_path / ".taskstream" / "broker.json").read_bytes())
    assert said == {"url": broker.url, "pid": broker.pid, "owner": os.getpid(), "results": None}
    # Also in the words of a release that knew of no results
    del said["results"]
    (tmp_path / ".taskstream" / "broker.json").write_text(json.dumps(said))
    assert running_broker_url(tmp_path) == broker.url
    broker.stop()
    broker.stop()
    assert running_broker_url(tmp_path) is None


def test_a_stale_file_counts_for_nothing(tmp_path: Path, broker: EmbeddedBroker) -> None:
    # Given what a machine that lost power leaves: a file whose pid and port belong to somebody else by now
    data = tmp_path / ".taskstream"
    data.mkdir()
    (data / "lock").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        url = f"redis://127.0.0.1:{other.getsockname()[1]}/0"
        (data / "broker.json").write_text(json.dumps({"url": url, "pid": os.getpid(), "owner": os.getpid()}))
        # Then it does not count as running and does not stop a new one
        assert running_broker_url(tmp_path) is None
        broker.start()
        assert running_broker_url(tmp_path) == broker.url != url
    (data / "broker.json").write_text("{torn")
    assert running_broker_url(tmp_path) is None


def test_a_second_one_in_the_same_folder_is_refused(
    tmp_path: Path, broker: EmbeddedBroker, start_process: Callable[..., Started]
) -> None:
    _, pid, url = hold(start_process, tmp_path)
    with pytest.raises(ConfigError, match=rf"already \(pid {pid}, {url}\)"):
        broker.start()
    # The refused one has taken nothing away from the running one
    assert running_broker_url(tmp_path) == url
    broker.stop()
    assert running_broker_url(tmp_path) == url


@pytest.mark.parametrize("parent_death", ["signal", "watch"])
def test_does_not_outlive_a_killed_starter(
    tmp_path: Path, broker: EmbeddedBroker, start_process: Callable[..., Started], parent_death: str
) -> None:
    # Given a broker with a message, started by another process
    holder, pid, url = hold(start_process, tmp_path, parent_death)
    with redis.Redis.from_url(url) as client:
        client.xadd("orders", {"body": "1"})
    # When that process is killed
    holder.send(signal.SIGKILL)
    holder.wait()
    # Then a new one starts at once in the same folder with the message, and the old server is gone
    broker.start()
    assert not alive(pid)
    with redis.Redis.from_url(broker.url) as client:
        assert client.xlen("orders") == 1


@pytest.mark.parametrize("parent_death", ["signal", "watch"])
def test_ctrl_c_in_the_foreground_group_leaves_it_alone(
    tmp_path: Path, start_process: Callable[..., Started], parent_death: str
) -> None:
    holder, pid, _ = hold(start_process, tmp_path, parent_death)
    assert os.getpgid(pid) == pid != os.getpgid(holder.pid)
    assert os.getsid(pid) == os.getsid(holder.pid)


def test_the_watcher_ends_with_the_server(
    tmp_path: Path, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PARENT_DEATH", "watch")
    broker.start()
    assert broker.pid is not None
    (watcher,) = [int(pid) for pid in Path(f"/proc/{broker.pid}/task/{broker.pid}/children").read_text().split()]
    broker.stop()
    eventually(lambda: not alive(watcher), message="the watcher is gone")


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            EmbeddedBroker(tmp_path, port=port).start()


def test_uses_the_port_it_is_told(tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedBroker(tmp_path, port=port) as broker:
        assert broker.url == f"redis://127.0.0.1:{port}/0"


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / ".taskstream").write_text("a file where the folder would be")
    with pytest.raises(ConfigError, match=r"cannot be written .*--broker redis://"):
        EmbeddedBroker(tmp_path).start()


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *rest: Any) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"taskstream\[embedded\].*--broker redis://"):
        EmbeddedBroker(tmp_path).start()


def test_on_windows_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match=r"Linux and macOS only.*--broker redis://"):
        EmbeddedBroker(tmp_path).start()


def test_an_unknown_machine_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    with pytest.raises(ConfigError, match=r"no binary for this machine.*--broker redis://"):
        EmbeddedBroker(tmp_path).start()


def test_importing_it_needs_nothing_of_unix() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import taskstream.embedded"
    subprocess.run([sys.executable, "-c", code], check=True)
