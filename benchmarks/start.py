"""What a pool costs before its first task and between tasks: start, memory and CPU while idle.

    python benchmarks/start.py [--rounds 5] [--processes 2] [--idle 60]

One task waits when ``taskstream worker`` is started, results are kept on disk, log level WARNING. Measured are the time
until that task runs; the CPU that supervisor and processes took until all of them work; ``taskstream --help``; in
the last round, with nothing to do, the memory of supervisor and processes together (PSS: shared pages count once) and
their CPU over ``--idle`` seconds. Prints JSON lines and a Markdown table of medians. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from taskstream import Taskstream
from taskstream.broker import Broker
from taskstream.embedded import EmbeddedBroker

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLE_S = 5.0
MOST_S = 60.0
APP = """
import time

from taskstream import Taskstream

app = Taskstream("start", results="file://results")


@app.task
def first(path: str) -> None:
    with open(path, "w") as file:
        file.write(repr(time.time()))
"""


def cpu_s(pids: list[int]) -> float:
    """CPU that the processes have taken so far, in user and system mode, with that of children they have reaped."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S


def pss_mib(pid: int) -> float:
    """Proportional share of memory of one process."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def help_s() -> tuple[float, float]:
    """Wall time and CPU of ``taskstream --help`` (s)."""
    command = [sys.executable, "-c", "import sys; from taskstream.cli.main import main; sys.exit(main(['--help']))"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return took, usage.ru_utime + usage.ru_stime


def wait_for(condition: object, what: str) -> None:
    """Until ``condition()`` is true."""
    assert callable(condition)
    deadline = time.monotonic() + MOST_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {MOST_S:.0f} s")
        time.sleep(0.005)


def one_start(folder: Path, url: str, processes: int, idle_s: float) -> dict[str, float]:
    """Start a pool, look at it, stop it."""
    ran = folder / "ran"
    ran.unlink(missing_ok=True)
    producer = Taskstream("start", broker=url, results=None)
    producer.send_task("start.first", args=[str(ran)], queue="start")
    broker = Broker(url)
    command = [sys.executable, "-m", "taskstream.cli", "worker", "-A", "start_app:app", "--processes", str(processes)]
    began = time.time()
    pool = subprocess.Popen([*command, "--broker", url, "-l", "WARNING"], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: ran.exists() and ran.read_text(), "the first task")
        found = {"first_task_s": float(ran.read_text()) - began}
        wait_for(lambda: len(broker.workers()) == processes, "all processes")
        family = [pool.pid, *(child.pid for child in psutil.Process(pool.pid).children(recursive=True))]
        found["start_cpu_s"] = cpu_s(family)
        if idle_s:
            time.sleep(SETTLE_S)
            before, began_idle = cpu_s(family), time.monotonic()
            time.sleep(idle_s)
            found["idle_cpu_percent"] = (cpu_s(family) - before) / (time.monotonic() - began_idle) * 100
            found["pss_mib"] = sum(map(pss_mib, family))
            found["pss_supervisor_mib"] = pss_mib(pool.pid)
    finally:
        pool.terminate()
        pool.wait()
        broker.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--idle", type=float, default=60.0, metavar="S", help="0: do not look at the idle pool")
    options = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as server:
        folder = Path(home)
        (folder / "start_app.py").write_text(APP)
        help_s()  # compiles what is not compiled yet
        one_start(folder, server.url, options.processes, 0.0)
        for number in range(options.rounds):
            wall, cpu = help_s()
            last = number == options.rounds - 1
            found = {"help_s": wall, "help_cpu_s": cpu}
            found |= one_start(folder, server.url, options.processes, options.idle if last else 0.0)
            rounds.append(found)
            print(json.dumps({name: round(value, 4) for name, value in found.items()}), flush=True)
    print("| figure | median |\n|---|---:|")
    for name in rounds[-1]:
        print(f"| {name} | {statistics.median(one[name] for one in rounds if name in one):.3f} |")


if __name__ == "__main__":
    main()
