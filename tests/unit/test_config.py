"""Configuration files: what is read from them, and the one line each mistake in them gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskstream.config import ServerConfig, StreamSettings, read_files, split_paths
from taskstream.errors import ConfigError

APP: dict[str, Any] = {
    "app": {"name": "my-streaming-app", "version": "1.0"},
    "env": {"process_message": {"save_path": "processed_messages"}},
    "events": {
        "send-message": {"type": "POST", "write_stream": {"name": "my-stream"}},
        "process-message": {"type": "STREAM", "read_stream": {"name": "my-stream", "consumer_group": "workers"}},
    },
}
SERVER: dict[str, Any] = {
    "logging": {"log_level": "debug"},
    "streams": {"connection_str": "redis://localhost:6379"},
    "api": {"docs_path": "/api/docs"},
}


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_value(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(content))
    *parents, last = path.split("/")
    found = changed
    for parent in parents:
        found = found.setdefault(parent, {})
    found[last] = value
    return changed


def error_of(*paths: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_files(paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_are_told_apart_by_content(tmp_path: Path) -> None:
    server, app = write(tmp_path, "a.json", SERVER), write(tmp_path, "b.json", APP)
    for order in ([server, app], [app, server]):
        settings_, (found,) = read_files(order)
        assert settings_ == ServerConfig(
            base=tmp_path, log_level="DEBUG", broker_url="redis://localhost:6379", docs_path="/api/docs"
        )
        assert (found.name, found.version, found.env) == ("my-streaming-app", "1.0", APP["env"])
        assert found.events["send-message"].write_stream == "my-stream"
        assert found.events["send-message"].max_length is None
        assert found.events["process-message"].read_stream == ("my-stream", "workers")


def test_a_stream_may_have_a_limit(tmp_path: Path) -> None:
    limited = with_value(APP, "events/send-message/write_stream", {"name": "my-stream", "max_length": 10_000})
    _, (found,) = read_files([write(tmp_path, "config.json", limited)])
    assert found.events["send-message"].max_length == 10_000


def test_app_alone_gets_the_defaults(tmp_path: Path) -> None:
    settings_, _ = read_files([write(tmp_path, "config.json", APP)])
    assert settings_ == ServerConfig(base=tmp_path)
    assert (settings_.results_url, settings_.retention, settings_.fsync) == ("file://results", 604800.0, "commit")


def test_all_settings_are_read(tmp_path: Path) -> None:
    stream = {
        "timeout": 2,
        "hard_timeout": 3,
        "batch_size": 5,
        "max_retries": 0,
        "max_deliveries": 2,
        "retry_backoff": 0.5,
    }
    stream |= {"step_delay": 10, "throttle_ms": 20, "concurrency": 7, "delay_auto_start": 1.5}
    app = write(tmp_path, "config.json", with_value(APP, "events/process-message/config/stream", stream))
    server = write(
        tmp_path,
        "server.json",
        {
            "logging": {"log_format": "json"},
            "api": {"docs_path": None, "max_body_bytes": 10},
            "streams": {"dead_retention": "2d"},
            "results": {"url": "json://out", "retention": "12h", "fsync": "checkpoint"},
        },
    )
    settings_, (found,) = read_files([server, app])
    assert found.events["process-message"].settings == StreamSettings(2.0, 3.0, 5, 0, 2, 0.5, 10.0, 20.0, 7, 1.5)
    assert settings_ == ServerConfig(
        tmp_path, "INFO", "json", None, None, 10, "json://out", 43200.0, "checkpoint", 172800.0
    )


@pytest.mark.parametrize("results", [None, {"url": None}, {"url": "null"}])
def test_no_results(tmp_path: Path, results: object) -> None:
    server = write(tmp_path, "server.json", {"results": results})
    assert read_files([server, write(tmp_path, "config.json", APP)])[0].results_url is None


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604800.0), ("90 m", 5400.0), ("1w", 604800.0), (30, 30.0)])
def test_retention_is_a_duration(tmp_path: Path, text: object, seconds: float) -> None:
    server = write(tmp_path, "server.json", {"results": {"retention": text}})
    assert read_files([server, write(tmp_path, "config.json", APP)])[0].retention == seconds


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("evnts", {}, "evnts: unknown key; did you mean 'events'?"),
        ("zzz", {}, "zzz: unknown key; known are app, env, events"),
        ("app", None, "app: Field may not be null."),
        ("app", [], "app: Invalid input type."),
        ("app/name", "a b", "app.name: name 'a b' is not a valid name"),
        ("app/name", 5, "app.name: Not a valid string."),
        ("app/version", 1.0, "app.version: Not a valid string."),
        ("app/version", "1 0\n", 'app.version: must be a version such as "1.0"'),
        ("app/nme", "x", "app.nme: unknown key; did you mean 'name'?"),
        ("env", [], "env: Not a valid object."),
        ("events", None, "events: Field may not be null."),
        ("events/ts:x", {"type": "GET"}, "events.ts:x: name 'ts:x' is not a valid name"),
        ("events/send-message", [], "events.send-message: Invalid input type."),
        ("events/send-message/type", "POSTT", "events.send-message.type: must be one of GET, POST, STREAM"),
        ("events/send-message/write_stream", {}, "events.send-message.write_stream.name: Missing data for required"),
        ("events/send-message/write_stream", "x", "events.send-message.write_stream: Invalid input type."),
        ("events/send-message/write_stream/max_length", 0, "write_stream.max_length: must be at least 1"),
        ("events/send-message/write_stream/max_length", "9", "write_stream.max_length: Not a valid integer"),
        ("events/process-message/read_stream/max_length", 9, "read_stream.max_length: unknown key"),
        ("events/send-message/read_stream", {"name": "a", "consumer_group": "b"}, "only STREAM events have it"),
        ("events/send-message/config", {}, "only STREAM events have it, this one is POST"),
        ("events/x", {"type": "STREAM"}, "events.x.read_stream: a STREAM event needs it"),
        ("events/process-message/read_stream/consumer_grup", "x", "did you mean 'consumer_group'?"),
        ("events/process-message/config/stream/timeout", "1", "config.stream.timeout: Not a valid finite number."),
        ("events/process-message/config/stream/timeout", 0, "config.stream.timeout: must be above 0"),
        ("events/process-message/config/stream/batch_size", 0, "config.stream.batch_size: must be at least 1"),
        ("events/process-message/config/stream/max_retries", True, "max_retries: Not a valid integer"),
        (
            "events/process-message/config/stream",
            {"timeout": 2, "hard_timeout": 2},
            "config.stream.hard_timeout: must be above timeout, which is 2",
        ),
        ("events/process-message/config/stream/timout", 1, "did you mean 'timeout'?"),
    ],
)
def test_mistakes_in_an_app_are_one_line(tmp_path: Path, path: str, value: object, expected: str) -> None:
    file = write(tmp_path, "config.json", with_value(APP, path, value))
    found = error_of(file)
    assert found.startswith(f"{file}: ")
    assert expected in found


def test_a_misspelt_key_comes_first_and_is_not_also_missing(tmp_path: Path) -> None:
    read_stream = {"consumer_grup": "x", "name": 5}
    event = {"type": "STREAM", "read_stream": read_stream}
    file = write(tmp_path, "config.json", with_value(APP, "events/x", event))
    place = "events.x.read_stream"
    assert error_of(file) == (
        f"{file}: {place}.consumer_grup: unknown key; did you mean 'consumer_group'?; {place}.name: Not a valid string."
    )
    # And what nobody meant is missing still, in sentences that go on after a semicolon
    read_stream.clear()
    read_stream["consumer_grup"] = "x"
    assert "name: Missing data" in error_of(write(tmp_path, "config.json", with_value(APP, "events/x", event)))
    assert error_of(write(tmp_path, "config.json", with_value(APP, "app", {}))) == (
        f"{file}: app.name: Missing data for required field; app.version: Missing data for required field."
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("loging", {}, "loging: unknown key; did you mean 'logging'?"),
        ("logging/log_level", "LOUD", "logging.log_level: must be one of DEBUG, INFO"),
        ("logging/log_level", 10, "logging.log_level: Not a valid string."),
        ("logging/log_format", "xml", "logging.log_format: must be one of text, json"),
        ("streams/connection_str", None, "streams.connection_str: Field may not be null."),
        ("streams/conection_str", "x", "did you mean 'connection_str'?"),
        ("streams/dead_retention", 0, "streams.dead_retention: must be a number of seconds above 0"),
        ("api/docs_path", "docs", 'api.docs_path: must be a path such as "/api/docs"'),
        ("api/max_body_bytes", 0, "api.max_body_bytes: must be at least 1"),
        ("results/retention", "soon", "results.retention: must be a number of seconds above 0"),
        ("results/retention", -1, "results.retention: must be a number of seconds above 0"),
        ("results/fsync", "never", "results.fsync: must be one of commit, checkpoint"),
        ("results", [], "results: Invalid input type."),
    ],
)
def test_mistakes_in_the_server_file_are_one_line(tmp_path: Path, path: str, value: object, expected: str) -> None:
    file = write(tmp_path, "server.json", with_value(SERVER, path, value))
    found = error_of(file, write(tmp_path, "config.json", APP))
    assert found.startswith(f"{file}: ")
    assert expected in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n  "app": {"name" "x"}}', "line 2 column 18: not valid JSON"),
        ("", "line 1 column 1: not valid JSON"),
        ("[]", "expected an object"),
        ("null", "expected an object"),
        ('{"app": {}, "app": {}}', "key 'app' is given twice"),
        ('{"env": {"a": NaN}}', "not valid JSON: NaN"),
        ("[" * 100_000, "nested too deeply"),
        ('{"env": {"a": ' + "9" * 10_000 + "}}", "integer string conversion"),
        ('{"env": {"a": ' + "9" * 30 + "}}", "env.a: Not a value that JSON can carry"),
    ],
)
def test_what_is_no_json_object_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in error_of(write(tmp_path, "config.json", text))


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "missing.json")
    assert "cannot be read" in error_of(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"app": "\xe9"}')
    assert "not UTF-8" in error_of(tmp_path / "latin.json")


def test_files_that_do_not_go_together_are_one_line(tmp_path: Path) -> None:
    app, server = write(tmp_path, "config.json", APP), write(tmp_path, "server.json", SERVER)
    assert "no app in it" in error_of(server)
    assert "only one file can" in error_of(server, app, write(tmp_path, "second.json", SERVER))
    assert "is also in" in error_of(app, write(tmp_path, "copy.json", APP))


def test_environment_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAVE_TO", "out")
    changed = with_value(APP, "env/process_message", {"save_path": "/x/${SAVE_TO}/y", "many": ["${SAVE_TO}", 1]})
    _, (found,) = read_files([write(tmp_path, "config.json", changed)])
    assert found.env["process_message"] == {"save_path": "/x/out/y", "many": ["out", 1]}


def test_missing_environment_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    file = write(tmp_path, "config.json", with_value(APP, "env/process_message/save_path", "${NOT_SET}"))
    assert error_of(file) == f"{file}: env.process_message.save_path: environment variable 'NOT_SET' is not set"


def test_paths_may_be_text_or_a_list(tmp_path: Path) -> None:
    assert split_paths("server.json, config.json,") == [Path("server.json"), Path("config.json")]
    assert split_paths([Path("a"), "b"]) == [Path("a"), Path("b")]
    assert split_paths(Path("a")) == [Path("a")]
    with pytest.raises(ConfigError, match="--config-files"):
        split_paths(" , ")


words = st.sampled_from(["app", "env", "events", "name", "version", "type", "POST", "STREAM", "read_stream", "1.0"])
words |= st.sampled_from(["config", "stream", "timeout", "logging", "log_level", "results", "url", "api", "${X", "x"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(anything)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_json_is_read_or_refused_in_one_line(tmp_path: Path, content: object) -> None:
    try:
        read_files([write(tmp_path, "config.json", content)])
    except ConfigError as error:
        assert "\n" not in str(error)
