"""How many instructions the hot paths take, beside the counts recorded in instructions.json.

    python -m benchmarks.instructions [--check] [--record] [--keep FOLDER]

Seconds say how busy the machine is, counts what a change costs: they repeat to within a percent. The paths of
counted.py run under valgrind's callgrind with a real broker, which is not counted, and are warm before they count.
One JSON line per figure, then a Markdown table. ``--check`` exits with 1 where a path takes more than its bound,
``--record`` makes this run's counts the recorded ones. Needs valgrind, a C compiler, and half a minute of CPU; where
those are missing ``--check`` passes with a word about it, and under ``CI=true`` it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks import counted
from taskstream.embedded import EmbeddedBroker

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "instructions.json"

TOLERANCE = 0.10
"""How much more than recorded a path may take. Between two runs it is a percent or two, so the rest is a change's."""

SAME = 0.02
"""Where the reference, which is none of our code, differs from the recorded one by more, Python was built otherwise."""

ELSEWHERE = 0.30
"""The tolerance by another Python, after scaling by the reference."""

PACKAGES = ("gevent", "greenlet", "redis", "hiredis", "msgspec", "uuid-utils", "flask", "werkzeug")
"""Their code is counted, too."""

WAIT_S = 300.0
VALGRIND = ("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no")


@dataclass(frozen=True)
class Record:
    """Instructions for one message or call by path, and what they were counted with."""

    python: str
    machine: str
    packages: Mapping[str, str]
    counts: Mapping[str, int]

    @classmethod
    def now(cls, counts: Mapping[str, int]) -> Record:
        """These counts, made here."""
        packages = {name: version(name) for name in PACKAGES}
        return cls(platform.python_version(), platform.machine(), packages, counts)


def bounds(recorded: Record, now: Record) -> dict[str, int]:
    """What each recorded path may take where ``now`` was counted.

    By the Python of the record that is TOLERANCE over it. Another one (a newer minor version, other flags of the
    compiler) needs more or less for all Python code, which the reference tells, and ELSEWHERE allows for the rest.
    """
    scale = now.counts[counted.REFERENCE] / recorded.counts[counted.REFERENCE]
    minor = [found.python.rpartition(".")[0] for found in (recorded, now)]
    if minor[0] == minor[1] and recorded.machine == now.machine and abs(scale - 1) <= SAME:
        factor = 1 + TOLERANCE
    else:
        factor = scale * (1 + ELSEWHERE)
    return {name: round(count * factor) for name, count in recorded.counts.items() if name != counted.REFERENCE}


def problems(recorded: Record, now: Record) -> list[str]:
    """What is wrong with the counts of ``now``, a line each."""
    said = [
        f"{name}: {now.counts[name]:,} instructions, {now.counts[name] / recorded.counts[name] - 1:+.1%} against "
        f"{recorded.counts[name]:,} recorded, at most {most:,} may be"
        for name, most in bounds(recorded, now).items()
        if name in now.counts and now.counts[name] > most
    ]
    missing = set(now.counts) ^ set(recorded.counts)
    said += [f"{name}: counted and not recorded, or recorded and not counted" for name in sorted(missing)]
    if said:
        other = {
            name: f"{recorded.packages.get(name)} → {found}"
            for name, found in {**now.packages, "python": now.python}.items()
            if {**recorded.packages, "python": recorded.python}.get(name) != found
        }
        said.append(f"versions that changed: {other or 'none'}")
        said.append(
            "where that price is meant: `python -m benchmarks.instructions --record`, and say why in the commit; "
            "else `callgrind_annotate` on a file of --keep FOLDER shows where they went"
        )
    return said


def measure(folder: Path) -> dict[str, int]:
    """Instructions of each path, for one message or call; callgrind's files stay in ``folder``."""
    library = folder / "counting.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "counting.c"], check=True)
    with EmbeddedBroker(folder) as broker:
        settings = {
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(HERE.parent),
            "COUNTING_LIBRARY": str(library),
            "TASKSTREAM_BROKER": broker.url,
            "TASKSTREAM_LOG_LEVEL": "WARNING",  # at INFO each POST writes a line
        }
        command = [*VALGRIND, f"--callgrind-out-file={folder}/out", sys.executable, "-m", "benchmarks.counted"]
        subprocess.run(command, cwd=folder, env={**os.environ, **settings}, check=True, timeout=WAIT_S)
    found = _counts(folder)
    return {name: found[name] for name in counted.PATHS}


def _counts(folder: Path) -> dict[str, int]:
    """What callgrind has written so far, by path."""
    found = {}
    for path in folder.glob("out.*"):
        text = path.read_text(errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (.*) / (\d+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)  # the file's last line
        if name and total:
            found[name[1]] = round(int(total[1]) / int(name[2]))
    return found


def main() -> None:
    """Count and print; judge or record where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail where a path takes more than its bound")
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave callgrind's files there")
    options = parser.parse_args()
    lacking = [name for name in ("valgrind", "cc") if shutil.which(name) is None]
    if lacking:
        print(f"instructions cannot be counted: {', '.join(lacking)} is not installed on this machine")
        raise SystemExit(0 if options.check and os.environ.get("CI") != "true" else 1)
    recorded = Record(**json.loads(RECORDED.read_text())) if RECORDED.exists() else None
    with ExitStack() as stack:
        if options.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        now = Record.now(measure(folder))
    most = bounds(recorded, now) if recorded is not None else {}
    table = ["| path | instructions | recorded | bound |", "| --- | ---: | ---: | ---: |"]
    for name, count in now.counts.items():
        before = recorded.counts.get(name) if recorded is not None else None
        print(json.dumps({"path": name, "instructions": count, "recorded": before, "bound": most.get(name)}))
        shown = [f"{figure:,}" if figure is not None else "" for figure in (count, before, most.get(name))]
        table.append(f"| {name} | {' | '.join(shown)} |")
    print("\n".join(["", *table]))
    if options.record:
        RECORDED.write_text(json.dumps(asdict(now), indent=2) + "\n")
    elif options.check:
        said = problems(recorded, now) if recorded is not None else [f"{RECORDED} is missing"]
        if said:
            print("\n".join(["", "The hot paths take too many instructions:", *said]))
            raise SystemExit(1)


if __name__ == "__main__":
    main()
