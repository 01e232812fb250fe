"""The examples of docs/testing.md, run by pytest as they stand, with the plugin that an installation brings."""

from __future__ import annotations

import re

import pytest
from helpers import ROOT

pytest_plugins = ["pytester"]

FENCE = re.compile(r"^```(?:python|toml)\n# (\S+\.\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_pass(pytester: pytest.Pytester) -> None:
    found = FENCE.findall((ROOT / "docs" / "testing.md").read_text(encoding="utf-8"))
    assert len(found) == 7
    (pytester.path / "greetings").mkdir()
    (pytester.path / "greetings" / "__init__.py").touch()
    for name, text in found:
        (pytester.path / name).write_text(text, encoding="utf-8")
    done = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=prepend")
    tests = sum(text.count("\ndef test_") for _, text in found)
    done.assert_outcomes(passed=tests)
