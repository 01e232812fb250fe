"""How commands print."""

from __future__ import annotations

import io
import sys

import pytest

from taskstream.cli.output import age, print_json, print_table


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", ">COUNT"], [["a", 1], ["long name", 1234567], [None, None]])
    assert capsys.readouterr().out == "NAME         COUNT\na                1\nlong name  1234567\n-                -\n"


def test_nothing_in_a_cell_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME"], [["a\x1b[31m\nb\u202e"]])
    assert capsys.readouterr().out == "NAME\na?[31m\\nb?\n"


def test_a_drawn_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["NAME", ">COUNT"], [["[bold]a", 1]])
    text = terminal.getvalue()
    assert "NAME" in text and "─" in text and "[bold]a" in text
    # What does not fit is never broken: plain lines, wider than the terminal
    terminal.truncate(0)
    name = "0198c2f0-6c1e-7d64-9c3b-0a4c5f4b8d11"
    print_table(["NAME", "OTHER", ">COUNT"], [[name, name, 12345]])
    assert terminal.getvalue().lstrip("\0").splitlines()[1] == f"{name}  {name}  12345"


def test_json_is_what_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"a": None}])
    assert capsys.readouterr().out == '[\n  {\n    "a": null\n  }\n]\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, None), (0.04, "0.0s"), (59.0, "59.0s"), (60, "1m"), (3599, "60m"), (3600, "1h"), (172800, "2d")],
)
def test_age(seconds: float | None, text: str | None) -> None:
    assert age(seconds) == text
