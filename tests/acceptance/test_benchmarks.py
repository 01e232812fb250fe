"""The benchmarks run: each with a handful of messages, and the comparison with others for Taskstream alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import ROOT, free_port, need

PROGRAMS = {
    "drain": ["--only", "no-op, def, results off", "--count", "300"],
    "growth": ["--only", "dead 100", "--only", "latency 0", "--count", "300", "--most", "100"],
    "options": ["--only", "headers", "--count", "300"],
    "payloads": ["--only", "10 kB", "--megabytes", "3"],
    "priorities": ["--only", "mixed", "--count", "300"],
    "scaling": ["--only", "async def that awaits", "--count", "300"],
    "stages": ["--count", "300"],
    "wire": ["--only", "protocol", "--count", "300"],
}
OTHERS = ("results_many", "results_store", "slow_disk", "start", "takeover")
LINES = [
    {"scenario": "limits", "peer": "XREADGROUP 100 + XACK + XDEL loop, 2 processes", "per_s": 82_141.0},
    {"scenario": "limits", "peer": "XREADGROUP 100 + XACK + XDEL loop, 1 process", "client_us": 10.36},
    {"scenario": "limits", "peer": "XADD one by one, redis-py + hiredis", "per_s": 6_000.0},
    {"scenario": "noop", "peer": "taskstream", "variant": "off", "per_s": 60_000.0, "worker_us": 19.0},
    {"scenario": "noop", "peer": "taskstream", "variant": "off", "per_s": 62_000.0, "worker_us": 17.0},
    {"scenario": "noop", "peer": "taskstream", "variant": "off", "per_s": 10.0, "worker_us": 18.0},
    {"scenario": "noop", "peer": "dramatiq", "variant": "gevent", "per_s": 4_000.0, "worker_us": 400.0},
    {"scenario": "noop", "peer": "huey", "variant": "process", "per_s": 2_000.0, "worker_us": 450.0},
    {"scenario": "noop", "peer": "rq", "variant": "fork", "error": "RuntimeError()"},
    {"scenario": "enqueue", "peer": "taskstream", "variant": "off", "enqueue_per_s": 5_000.0},
    {"scenario": "result", "peer": "huey", "variant": "process", "skipped": "for a reason"},
    {"first_task_s": 1.1, "help_s": 0.4},
]


def command(program: str, *arguments: str) -> list[str]:
    """The command line of a benchmark."""
    return [sys.executable, "-m", f"benchmarks.{program}", *arguments]


def peers(*arguments: str) -> str:
    """What a command of the comparison prints."""
    done = subprocess.run(
        command("peers", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_each_program_prints_lines_and_a_table(tmp_path: Path) -> None:
    # All at once: they mostly wait for their pools.
    running = {
        name: subprocess.Popen(
            command(name, *arguments, "--rounds", "1", "--out", str(tmp_path / f"{name}.jsonl")),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in PROGRAMS.items()
    }
    for name, process in running.items():
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, f"{name}: {errors}"
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert rows and all(line in output for line in lines), name
        assert any(value for row in rows for value in row.values() if isinstance(value, float)), name
        assert output.count("\n| ") >= len(rows) + 2, name


def test_the_others_say_what_they_measure() -> None:
    running = {
        name: subprocess.Popen(command(name, "--help"), cwd=ROOT, stdout=subprocess.PIPE, text=True) for name in OTHERS
    }
    for name, process in running.items():
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and f"python -m benchmarks.{name}" in output, name


def test_the_comparison_runs_taskstream(tmp_path: Path) -> None:
    need(shutil.which("redis-server"), "redis-server")
    (tmp_path / "venvs").mkdir()
    (tmp_path / "venvs" / "taskstream").symlink_to(sys.prefix)
    out = tmp_path / "lines.jsonl"
    options = ("--n", "200", "--reps", "1", "--as-installed", "--port", str(free_port()), "--out", str(out))
    output = peers("run", "--home", str(tmp_path), "--peers", "taskstream:off", "--scenario", "noop", *options)
    head, *rows = map(json.loads, out.read_text().splitlines())
    assert head["versions"]["taskstream"]["taskstream"]
    (noop,) = [row for row in rows if row["scenario"] == "noop"]
    assert noop["distinct"] == noop["records"] == 200 and noop["complete"]
    assert {row["peer"] for row in rows if row["scenario"] == "limits"} == {line["peer"] for line in LINES[:2]}
    assert "| taskstream off | " in output
    assert not list(tmp_path.glob("run-*"))


def test_tables_of_the_comparison(tmp_path: Path) -> None:
    given = tmp_path / "lines.jsonl"
    given.write_text("".join(json.dumps({"variant": "", **line}) + "\n" for line in LINES))
    report = peers("report", str(given))
    assert report.index("| taskstream off | 60,000 | 18.0 |") < report.index("| dramatiq gevent | 4,000 | 400 |")
    assert "| rq fork | failed: RuntimeError() |" in report
    assert "| huey process | not run: for a reason |" in report
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in peers("targets", str(given)).splitlines()]
    targets = {cells[0]: cells[1:] for cells in lines if cells}
    wanted = "≥ 110,000 /s and ≥ 12 × the best peer"
    assert targets["no-op tasks, 2 processes"] == [
        *(wanted, "≥ 55,000 /s", "60,000/s", "dramatiq gevent 4,000", "15.00", "yes")
    ]
    assert targets["CPU of the workers for each"][1:3] == ["≤ 18.0 µs", "18.0 µs"]
    assert targets["delay(), one producer"][1:] == ["raw 6,000/s", "5,000/s (0.83 × raw)", "", "", "**no**"]
    assert targets["20 ms sleeps, 2 × 100 slots"][2] == "not measured"
    assert [targets[name][-1] for name in ("start to first task", "taskstream --help")] == ["yes", "**no**"]
