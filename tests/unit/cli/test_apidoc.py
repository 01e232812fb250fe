"""What differs between two OpenAPI documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskstream import Taskstream
from taskstream.app import loading
from taskstream.cli.apidoc import differences, dump, read
from taskstream.cli.main import main
from taskstream.errors import ConfigError

DOCUMENT = {"info": {"version": "1.0"}, "paths": {"/a/b": {"get": {"tags": ["x"]}}}}


def test_a_document_agrees_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "openapi.json"
    file.write_bytes(dump(DOCUMENT))
    assert differences(read(file), DOCUMENT) == []
    assert file.read_bytes().endswith(b"}\n")


def test_every_place_that_differs_is_one_line() -> None:
    on_file = {"info": {"version": "0.9", "title": "T"}, "paths": {"/a/b": {"get": {"tags": ["y" * 99]}}}}
    of_code = {"info": {"version": "1.0"}, "paths": {"/a/b": {"get": {"tags": ["x"]}}}, "components": {}}
    assert differences(on_file, of_code) == [
        "/components: only in the code",
        "/info/title: only in the file",
        '/info/version: "0.9" in the file, "1.0" in the code',
        f'/paths/~1a~1b/get/tags: ["{"y" * 55}… in the file, ["x"] in the code',
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"[1]", "is no OpenAPI document"), (b"{", "is no OpenAPI document")],
)
def test_a_file_that_is_none_is_one_clear_line(tmp_path: Path, content: bytes, text: str) -> None:
    file = tmp_path / "openapi.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=text) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))
    assert str(caught.value).endswith("make it anew with `taskstream openapi create`")


def test_a_file_that_is_not_there_is_named_with_the_command_that_writes_it() -> None:
    with pytest.raises(ConfigError) as caught:
        read(Path("no-folder/openapi.json"))
    assert str(caught.value) == (
        "there is no no-folder/openapi.json: "
        "write it with `taskstream openapi create --output-file no-folder/openapi.json`"
    )


def test_the_tasks_of_an_app_are_written_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = Taskstream("shop")

    @app.task
    def order(item: str) -> None: ...

    monkeypatch.setattr(loading, "load_app", lambda target: app)
    monkeypatch.chdir(tmp_path)
    assert main(["openapi", "create", "-A", "shop:app"]) == 0
    assert main(["openapi", "diff", "-A", "shop:app"]) == 0
    assert "openapi.json and the code agree" in capsys.readouterr().out

    @app.task
    def cancel(item: str) -> None: ...

    assert main(["openapi", "diff", "-A", "shop:app"]) == 1
    assert "/paths/~1api~1tasks~1shop.cancel: only in the code" in capsys.readouterr().out.splitlines()
