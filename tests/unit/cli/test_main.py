"""The top of the command line: overview, lazy loading, and one line for every failure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from taskstream import __version__
from taskstream.cli import main as module
from taskstream.cli.main import COMMANDS, cli, guarded, main
from taskstream.errors import BrokerUnavailable, ConfigError, ValidationError

Capture = pytest.CaptureFixture[str]


def test_help_names_every_command_under_its_section(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"\n  {name} " in out and entry.help in " ".join(out.split())
        assert f"\n{entry.section}:\n" in out


def test_help_loads_no_command() -> None:
    code = (
        "import sys\nfrom taskstream.cli.main import main\nmain(['--help'])\n"
        "loaded = [name for name in sys.modules if name.startswith(('taskstream.cli.', 'redis', 'rich', 'msgspec'))]\n"
        "assert loaded == ['taskstream.cli.main'], loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: taskstream {name} " in capsys.readouterr().out
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.name == name


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"taskstream {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["wrker"], "taskstream: no command 'wrker'; did you mean 'worker'? (see taskstream --help)\n"),
        (["zzz"], "taskstream: no command 'zzz' (see taskstream --help)\n"),
        (
            ["-A", "a:b", "worker"],
            "taskstream: '-A' stands before the command: put it behind, as in taskstream worker -A … (see taskstream",
        ),
        (["--zzz", "zzz"], "taskstream: No such option '--zzz' (see taskstream --help)\n"),
        (
            ["worker", "--processes", "many"],
            "taskstream: Invalid value for '--processes': 'many' is not a valid whole number",
        ),
        (
            ["worker", "--grace", "x"],
            "taskstream: Invalid value for '--grace': 'x' is not a valid number of seconds",
        ),
        (["worker", "-A", "a:b", "--config-files", "c"], "taskstream: -A and --config-files exclude one another"),
        (["worker", "-n", ""], "taskstream: Invalid value for '-n' / '--name': '' can be no name: use letters"),
        (["worker", "-n", "a b"], "taskstream: Invalid value for '-n' / '--name': 'a b' can be no name: use letters"),
        (["doctor", "--results", "bad"], "taskstream: results URL 'bad' cannot be used"),
        (["result"], "taskstream: Missing argument 'ID' (see taskstream result --help)\n"),
        (["control", "stop"], "taskstream: Missing argument 'EVENT-or-QUEUE' (see taskstream control stop --help)\n"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments: list[str], text: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(text)


@pytest.mark.parametrize(("name", "value"), [("LEVEL", "loud"), ("FORMAT", "xml")])
def test_every_command_refuses_a_wrong_log_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv(f"TASKSTREAM_LOG_{name}", value)
    for command in (["queues"], ["worker", "-A", "a:b"], ["dead", "list", "jobs"]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith(f"taskstream: TASKSTREAM_LOG_{name} {value!r} is no ")


def test_doctor_refuses_a_wrong_result_store_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("TASKSTREAM_RESULTS", "bad")
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith("taskstream: results URL 'bad' cannot be used")


@pytest.mark.parametrize("arguments", [[], ["control"], ["dead"], ["openapi"]])
def test_a_group_alone_shows_its_help(arguments: list[str], capsys: Capture) -> None:
    assert main(arguments) == 2
    assert "Usage: taskstream" in capsys.readouterr().err


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("server.json: key 'x' is unknown"), 2, "server.json: key 'x' is unknown"),
        (BrokerUnavailable("broker redis://h refused"), 1, "broker redis://h refused"),
        (ValidationError("two\nlines"), 1, "two lines"),
        (PermissionError(13, "Permission denied", "out.json"), 1, "out.json: Permission denied"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (KeyError("k"), 1, "internal error: KeyError: 'k' (TASKSTREAM_LOG_LEVEL=DEBUG shows where)"),
    ],
)
def test_a_failure_is_one_line(error: BaseException, status: int, line: str, capsys: Capture) -> None:
    assert guarded(raising(error)) == status
    assert capsys.readouterr() == ("", f"taskstream: {line}\n")


def test_a_defect_shows_where_at_debug_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSTREAM_LOG_LEVEL", "DEBUG")
    with pytest.raises(KeyError):
        guarded(raising(KeyError("k")))


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_a_command_returns_its_status(returned: object, status: int) -> None:
    assert guarded(lambda: returned) == status


def test_a_reader_that_has_enough_is_no_traceback() -> None:
    code = (
        "import sys, click\nfrom taskstream.cli.main import guarded\n"
        "sys.exit(guarded(lambda: [click.echo('x' * 1000) for _ in range(1000)] and None))"
    )
    reader = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    reader.wait(30)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=30, check=False
    )
    reader.stdin.close()
    assert (done.returncode, done.stderr) == (1, "")


def test_shell_completion_is_clicks(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TASKSTREAM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "taskstream w")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == ["plain,worker", "plain,web", "plain,workers"]


def test_statuses_are_as_documented() -> None:
    assert (module.DONE, module.FAILED, module.USAGE) == (0, 1, 2)
