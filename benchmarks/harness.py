"""What the benchmarks share: a server, an app in a folder, a pool of workers, a full stream, and figures of it all.

Every program prints a JSON line per figure as it comes and a Markdown table of medians at its end (Figures). Nothing
here measures anything by itself, and nothing here is known to the product.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import psutil
import redis

from taskstream.broker import Broker, Envelope
from taskstream.embedded import EmbeddedBroker
from taskstream.message import Message

ROOT = Path(__file__).parents[1]
BATCH = 500
"""Messages in one round trip while a stream is filled."""
START_S = 60.0
STALL_S = 60.0
"""How long nothing may happen before a run is given up (a full disk, a worker that died)."""

Value = str | float | None
Row = dict[str, Value]


def parser(doc: str | None, **counts: int) -> argparse.ArgumentParser:
    """A command line that says what is measured (``doc``, the module's text), with an option for each of ``counts``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in counts.items():
        made.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{value:,} by default")
    made.add_argument("--only", action="append", metavar="TEXT", help="measure only what has this in its name")
    made.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    return made


class Column(NamedTuple):
    """One column of the table: the name of the figure, its heading, its decimals."""

    name: str
    heading: str
    decimals: int = 0


class Figures:
    """Collects rows, printing each as a JSON line; then prints a table of the medians of rows that have one key."""

    def __init__(self, keys: Sequence[str], columns: Sequence[Column], out: Path | None = None) -> None:
        """``keys`` are the fields of a row that say what was measured, ``columns`` what of it goes into the table."""
        self._keys = keys
        self._columns = columns
        self._out = out
        self._rows: dict[tuple[Value, ...], list[Row]] = {}

    def add(self, row: Mapping[str, Value]) -> None:
        """One more measurement."""
        emit(row, self._out)
        self._rows.setdefault(tuple(row[key] for key in self._keys), []).append(dict(row))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._rows)

    def medians(self) -> Iterator[tuple[tuple[Value, ...], dict[str, float]]]:
        """For each key, in the order they came: the median of every column that has a number."""
        for key, rows in self._rows.items():
            found = {}
            for column in self._columns:
                numbers = [value for row in rows if isinstance(value := row.get(column.name), int | float)]
                if numbers:
                    found[column.name] = statistics.median(numbers)
            yield key, found

    def table(self) -> str:
        """The table in Markdown; the rate's range where there are several rounds."""
        head = [*self._keys, *(column.heading for column in self._columns)]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(self._keys)}{' ---: |' * len(self._columns)}"]
        for key, found in self.medians():
            cells = [
                f"{found[column.name]:,.{column.decimals}f}" if column.name in found else "" for column in self._columns
            ]
            lines.append(f"| {' | '.join([*map(str, key), *cells])} |")
        return "\n".join(lines)

    def show(self) -> None:
        """Print the table."""
        print(f"\n{self.table()}", flush=True)


def emit(row: Mapping[str, Value | object], out: Path | None = None) -> None:
    """Print a JSON line, numbers with six digits at most behind the point; append it to ``out`` as well."""
    line = json.dumps({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
    print(line, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def percentiles(seconds: Sequence[float], *shares: float) -> dict[str, float]:
    """``shares`` (0.5 and 0.99 unless given) of ``seconds``, and the largest: ``p50_ms``, ``p99_ms``, ``max_ms``."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    found = {
        f"p{share * 100:g}_ms": ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3
        for share in shares or (0.5, 0.99)
    }
    return {**found, "max_ms": ordered[-1] * 1e3}


@contextmanager
def server(url: str | None = None) -> Iterator[str]:
    """The URL of a server: the one given, or an embedded Valkey of our own in a temporary folder."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home)) as broker:
        yield broker.url


def server_cpu_s(client: redis.Redis) -> float:
    """CPU of the server so far (s)."""
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def cpu_s(pid: int) -> float:
    """CPU of a process and its living descendants so far (s)."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def write_files(folder: Path, files: Mapping[str, str | dict[str, object]]) -> None:
    """Write texts, and JSON documents from dicts, under ``folder``."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def fill(broker: Broker, count: int, make: Callable[[int], Envelope | tuple[str, Message]]) -> None:
    """Publish what ``make`` returns for 0 to ``count`` - 1, BATCH in a round trip."""
    for start in range(0, count, BATCH):
        broker.publish_many([make(number) for number in range(start, min(start + BATCH, count))])


class Pool:
    """A ``taskstream worker`` (or another command) that runs in a folder, in a session of its own."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log: TextIO = (folder / "pool.log").open("a", encoding="utf-8")
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskstream.cli", *arguments],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def children(self) -> list[psutil.Process]:
        """The worker processes, without their supervisor."""
        return psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []

    def cpu_s(self) -> float:
        """CPU of the worker processes so far (s)."""
        return sum(sum(child.cpu_times()[:2]) for child in self.children())

    def check(self) -> None:
        """Raises SystemExit with the end of its log where it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(f"the pool ended with {self.process.returncode}:\n{self.log()[-2000:]}")

    def log(self) -> str:
        """What it has printed."""
        return (self.folder / "pool.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL where it does not go."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()

    def kill(self) -> None:
        """End it and its processes at once."""
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait()
        self._log.close()


@contextmanager
def pool(
    folder: Path,
    url: str,
    *arguments: str,
    processes: int = 1,
    level: str = "WARNING",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Pool]:
    """A pool of workers in ``folder`` on the server at ``url``, stopped at the end; ``arguments`` name the app."""
    given = ["worker", *arguments, "--processes", str(processes), "--broker", url, "-l", level]
    started = Pool(given, folder, environment)
    try:
        yield started
    finally:
        started.stop()


def until(
    condition: Callable[[], bool], what: str, *pools: Pool, timeout_s: float = START_S, every_s: float = 0.02
) -> None:
    """Wait for ``condition``. Raises SystemExit after ``timeout_s``, or when one of ``pools`` has ended."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for one in pools:
            one.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)


class Drained(NamedTuple):
    """Messages worked off in a second; CPU of the workers and of the server for each (µs); how many were counted."""

    per_s: float
    cpu_us: float
    server_us: float
    counted: int

    def row(self) -> Row:
        """The figures for a JSON line."""
        return {
            "per_s": round(self.per_s, 1),
            "cpu_us": round(self.cpu_us, 2),
            "server_us": round(self.server_us, 2),
            "counted": self.counted,
        }


DRAINED = (
    Column("per_s", "messages/s"),
    Column("cpu_us", "worker CPU µs each", 1),
    Column("server_us", "server CPU µs each", 1),
)


def drained(
    client: redis.Redis, started: Pool, left: Callable[[], int], *, skip: float = 0.1, leave: int = 0
) -> Drained:
    """Wait until ``leave`` messages are left and measure what happens after the first ``skip`` (share) of them.

    The share that is skipped covers the start of the processes, which do not begin at one moment.
    """
    total = left()
    until(lambda: left() <= total - (total - leave) * skip, "the pool begins", started, every_s=0.002)
    first, begin, cpu, server_s = left(), time.perf_counter(), started.cpu_s(), server_cpu_s(client)
    last, moved = first, begin
    while (now_left := left()) > leave:
        now = time.perf_counter()
        if now_left != last:
            last, moved = now_left, now
        elif now - moved > STALL_S:
            raise SystemExit(
                f"{now_left} messages are left and none is done for {STALL_S:g} s:\n{started.log()[-2000:]}"
            )
        started.check()
        time.sleep(0.005)
    elapsed = time.perf_counter() - begin
    counted = max(1, first - leave)
    micro = 1e6 / counted
    return Drained(
        counted / elapsed, (started.cpu_s() - cpu) * micro, (server_cpu_s(client) - server_s) * micro, counted
    )


@contextmanager
def app_folder(files: Mapping[str, str | dict[str, object]]) -> Iterator[Path]:
    """A temporary folder with an app's files in it."""
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), files)
        yield Path(name)


def chosen(names: Iterable[str], only: Sequence[str] | None) -> list[str]:
    """The names that have one of the texts of ``--only`` in them. Raises SystemExit where there is none."""
    found = [name for name in names if only is None or any(text in name for text in only)]
    if not found:
        raise SystemExit(f"nothing has {' or '.join(only or ())} in its name")
    return found


def turns(names: Iterable[str], options: argparse.Namespace) -> Iterator[str]:
    """Each name that ``options`` want once in each of their rounds.

    The order is turned by one from round to round, so that none is always first.
    """
    order = chosen(names, options.only)
    for _ in range(options.rounds):
        yield from order
        order = [*order[1:], *order[:1]]
