"""The bearer token, the loopback rule, and browsers sent by other sites."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from taskstream.errors import ConfigError
from taskstream_webapp.settings import WebSettings, choose_broker, is_loopback, token_from

from .conftest import FakeBroker, FakeEvent, echo

PATH = "/api/shop/1x0/place-order"
TOKEN = "s3cret-Token"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8020", "LOCALHOST.", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:8020"]
)
def test_without_a_token_loopback_hosts_are_answered(client: FlaskClient, host: str) -> None:
    assert client.post(PATH, json={}, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "192.168.1.4:8020",
        "127.0.0.1.evil.example",
        "localhost,evil.example",
        "0.0.0.0",
        "[::]",
        "localhost:80a",
        "[::1]x",
        "127.0.0.1@evil.example",
        "10.0.0.1",
        "127.1",
    ],
)
def test_without_a_token_other_hosts_are_refused(client: FlaskClient, broker: FakeBroker, host: str) -> None:
    for path in (PATH, "/healthz", "/", "/nowhere", "/metrics"):
        response = client.post(path, json={}, environ_overrides={"HTTP_HOST": host})
        assert response.status_code == 403
        assert response.content_type == "application/problem+json"
    assert broker.published == []


def test_insecure_answers_any_host(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(settings=WebSettings(insecure=True))
    assert client.post(PATH, json={}, headers={"Host": "box.local:8020"}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é", f"Bearer x {TOKEN}"],
)
def test_with_a_token_everything_but_the_probes_needs_it(
    make_client: Callable[..., FlaskClient], broker: FakeBroker, value: str | None
) -> None:
    client = make_client(settings=WebSettings(token=TOKEN))
    headers = {} if value is None else {"Authorization": value}
    paths = ["/", "/metrics", "/api/docs", "/api/openapi.json", "/nowhere", "/mgmt/shop/1x0/ship-order/stop", PATH]
    for path in [*paths, "/static/style.css", "/healthz/"]:
        response = client.post(path, json={}, headers=headers)
        assert response.status_code == 401, path
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.headers["X-Track-Request-Id"]
    assert client.get("/healthz", headers=headers).status_code == 200
    assert client.get("/readyz", headers=headers).status_code == 200
    assert broker.published == []


def test_the_right_token_opens(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(settings=WebSettings(token=TOKEN))
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {TOKEN}", "Host": "api.example.com"}
        assert client.post(PATH, json={}, headers=headers).status_code == 200


CROSS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none", "Sec-Purpose": "prefetch;prerender"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://localhost:8020.evil.example"},
]
SAME = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8020"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost:8020"},
]


@pytest.mark.parametrize("headers", CROSS)
def test_another_site_changes_nothing(
    make_client: Callable[..., FlaskClient], broker: FakeBroker, headers: dict[str, str]
) -> None:
    client = make_client(FakeEvent(echo), FakeEvent(echo, "GET", "take"))
    for response in (
        client.post(PATH, json={}, headers=headers),
        client.post(PATH, data=b"{}", headers={**headers, "Content-Type": "text/plain"}),
        client.get("/api/shop/1x0/take", headers=headers),
        client.get("/mgmt/shop/1x0/ship-order/stop", headers=headers),
        client.post("/mgmt/shop/1x0/ship-order/stop", headers=headers),
    ):
        assert response.status_code == 403
        assert "Access-Control-Allow-Origin" not in response.headers
    assert broker.published == []


@pytest.mark.parametrize("headers", SAME)
def test_the_own_pages_and_programs_may(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post(PATH, json={}, headers={"Host": "localhost:8020", **headers}).status_code == 200


def test_a_browser_that_names_no_site_may_not_change_state_by_get(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(FakeEvent(echo, "GET", "take"))
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    assert client.get("/api/shop/1x0/take", headers=browser).status_code == 403
    assert client.get("/api/shop/1x0/take", headers={"User-Agent": "curl/8"}).status_code == 200
    assert client.get("/healthz", headers=browser).status_code == 200


def test_the_token_comes_from_the_environment() -> None:
    assert token_from({"TASKSTREAM_AUTH_TOKEN": " abc "}) == "abc"
    assert token_from({"TASKSTREAM_AUTH_TOKEN": ""}) is None
    assert token_from({}) is None
    for wrong in ("two words", "naïve", "a\nb"):
        with pytest.raises(ConfigError, match="TASKSTREAM_AUTH_TOKEN"):
            token_from({"TASKSTREAM_AUTH_TOKEN": wrong})


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_which_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    running: list[str] = []
    monkeypatch.setattr("taskstream_webapp.settings.running_broker_url", lambda asked: running[0] if running else None)
    with pytest.raises(ConfigError, match="--broker"):
        choose_broker(None, None, folder)
    assert choose_broker(None, "redis://configured", folder) == "redis://configured"
    running.append("redis://dev")
    assert choose_broker(None, "redis://configured", folder) == "redis://dev"
    monkeypatch.setenv("TASKSTREAM_BROKER", "redis://env")
    assert choose_broker(None, "redis://configured", folder) == "redis://env"
    assert choose_broker("redis://said", "redis://configured", folder) == "redis://said"
