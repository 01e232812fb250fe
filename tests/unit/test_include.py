"""Modules that an app includes: which names will do, and when they are imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from taskstream import ConfigError, Taskstream
from taskstream.app.loading import load_app
from taskstream.testing import in_memory


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ("shop.tasks", "include='shop.tasks' is no list: give the names of modules, as in ['shop.tasks']"),
        (5, "include=5 is no list"),
        ([".tasks"], "include: '.tasks' is no module's name: give one as in 'shop.tasks'"),
        ([None], "include: None is no module's name"),
        (["shop/tasks.py"], "include: 'shop/tasks.py' is no module's name"),
    ],
)
def test_include_that_cannot_be_is_refused(include: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Taskstream("shop", include=include)
    assert str(caught.value).startswith("Taskstream('shop'): ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ("['incl.tasks', 'incl.more']", None),
        ("('incl.nowhere',)", "app incl: include: there is no module 'incl.nowhere' in "),
        (
            "['incl.missing']",
            "include: module incl.missing cannot be imported: ModuleNotFoundError: No module named 'no",
        ),
        ("['incl.tasks', 'incl.broken']", "include: module incl.broken cannot be imported: ZeroDivisionError: "),
    ],
)
def test_load_app_imports_what_the_app_includes(
    include: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a package whose modules import the app, which includes some of them
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    package = tmp_path / "incl"
    package.mkdir()
    app = f"from taskstream import Taskstream\napp = Taskstream('incl', include={include})\n"
    for name, text in {
        "__init__": "",
        "app": app,
        "tasks": "from incl.app import app\n@app.task\ndef one(): ...\n",
        "more": "from incl.app import app\n@app.task\ndef two(): ...\n",
        "missing": "import no_such_module\n",
        "broken": "\n1 / 0\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    try:
        # When it is loaded, then their tasks are there; importing the app alone imports none of them
        if said is None:
            monkeypatch.syspath_prepend(tmp_path)
            assert dict(importlib.import_module("incl.app").app.tasks) == {}
            assert list(load_app("incl.app").tasks) == ["incl.one", "incl.two"]
            return
        # Or one line says what cannot be
        with pytest.raises(ConfigError) as caught:
            load_app("incl.app")
        assert said in str(caught.value) and "\n" not in str(caught.value)
        if "broken" in said:
            assert str(caught.value).endswith(f" ({package / 'broken'}.py:2)")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "incl"]:
            del sys.modules[name]


def test_helpers_for_tests_import_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given: a test that imports the app alone
    (tmp_path / "incl_tasks.py").write_text("INCLUDED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with in_memory(Taskstream("incl", include=["incl_tasks"])):
        assert sys.modules.pop("incl_tasks").INCLUDED
