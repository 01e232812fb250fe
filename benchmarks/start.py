"""What a pool costs before its first task and between tasks: start, memory and CPU while idle.

    python -m benchmarks.start [--rounds 5] [--processes 2] [--idle 60]

One task waits when ``taskstream worker`` is started, results are kept on disk, log level WARNING. Measured are the time
until that task runs; the CPU that supervisor and processes took until all of them work; ``taskstream --help``; in
the last round, with nothing to do, the memory of supervisor and processes together (PSS: shared pages count once) and
their CPU over ``--idle`` seconds. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Column, Figures, Pool, parser, server, until, write_files
from benchmarks.peers.machine import Usage
from taskstream import Taskstream
from taskstream.broker import Broker

SETTLE_S = 5.0
APP = """
import time

from taskstream import Taskstream

app = Taskstream("start", results="file://results")


@app.task
def first(path: str) -> None:
    with open(path, "w") as file:
        file.write(repr(time.time()))
"""


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


def one_start(folder: Path, url: str, processes: int, idle_s: float) -> dict[str, float]:
    """Start a pool, look at it, stop it."""
    ran = folder / "ran"
    ran.unlink(missing_ok=True)
    producer = Taskstream("start", broker=url, results=None)
    producer.send_task("start.first", args=[str(ran)], queue="start")
    broker = Broker(url)
    wanted = ["worker", "-A", "start_app:app", "--processes", str(processes), "--broker", url, "-l", "WARNING"]
    began = time.time()
    pool = Pool(wanted, folder)
    try:
        until(lambda: ran.exists() and bool(ran.read_text()), "the first task", pool, every_s=0.005)
        found = {"first_task_s": float(ran.read_text()) - began}
        until(lambda: len(broker.workers()) == processes, "all processes", pool, every_s=0.005)
        used = Usage({pool.process.pid})
        found["start_cpu_s"] = used.cpu_s()
        if idle_s:
            time.sleep(SETTLE_S)
            before, began_idle = used.cpu_s(), time.monotonic()
            time.sleep(idle_s)
            found["idle_cpu_percent"] = (used.cpu_s() - before) / (time.monotonic() - began_idle) * 100
            found["pss_mib"] = used.pss() / 2**20
            found["pss_supervisor_mib"] = used.pss(pool.process.pid) / 2**20
    finally:
        pool.stop()
        broker.close()
        producer.close()
    return found


def main() -> None:
    """Measure and print."""
    command = parser(__doc__, rounds=5, processes=2)
    command.add_argument("--idle", type=float, default=60.0, metavar="S", help="0: do not look at the idle pool")
    options = command.parse_args()
    names = {
        "help_s": "--help, s",
        "help_cpu_s": "its CPU, s",
        "first_task_s": "first task, s",
        "start_cpu_s": "CPU until all work, s",
        "idle_cpu_percent": "idle CPU, %",
        "pss_mib": "PSS, MiB",
        "pss_supervisor_mib": "supervisor PSS, MiB",
    }
    figures = Figures(["processes"], [Column(name, heading, 3) for name, heading in names.items()], options.out)
    with tempfile.TemporaryDirectory() as home, server() as url:
        folder = Path(home)
        write_files(folder, {"start_app.py": APP})
        help_s()  # compiles what is not compiled yet
        one_start(folder, url, options.processes, 0.0)
        for number in range(options.rounds):
            wall, cpu = help_s()
            idle_s = options.idle if number == options.rounds - 1 else 0.0
            found = one_start(folder, url, options.processes, idle_s)
            figures.add({"processes": options.processes, "help_s": wall, "help_cpu_s": cpu, **found})
    figures.show()


if __name__ == "__main__":
    main()
