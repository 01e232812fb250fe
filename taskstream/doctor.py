"""Looks a broker and a result store over for what will hurt: one finding a line, with what to do about it.

It changes nothing, apart from an empty file that it makes in the results' folder and removes again, and it is bounded
in time. Which broker and which store, the caller says.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import redis

from taskstream.broker import health
from taskstream.connection import PRODUCER, translate
from taskstream.display import display_url
from taskstream.errors import ConfigError, ResultUnavailable, TaskstreamError, WrongKind
from taskstream.inspector import overview
from taskstream.link import Link
from taskstream.results.probe import existing, folder_of, unwritable

if TYPE_CHECKING:
    from taskstream.broker import Broker
    from taskstream.inspector import GroupView, Overview
    from taskstream.results.base import ResultStore

PROBLEM = "problem"
NOTE = "note"

CLOCK_S = 2.0
"""How far two clocks may be apart before it is said."""

OVERDUE_S = 60.0
"""A lease that ended so long ago, and a message that waits so long without a worker, is nobody's."""

NETWORK_FILE_SYSTEMS = frozenset(
    ("afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs")
)
"""Where the write-ahead log of SQLite does not work (https://www.sqlite.org/wal.html)."""

LOW_DISK_BYTES = 512 * 1024 * 1024
NEARLY_FULL = 0.9


class Finding(msgspec.Struct, frozen=True):
    """One thing found: ``level`` problem or note, what it is ``about``, and what to do (empty: nothing)."""

    level: str
    about: str
    text: str
    remedy: str = ""


def within(limit_s: float, about: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings about ``about`` as they are made, for ``limit_s`` seconds at most: what hangs is one, too.

    A network file system, say, can hang for ever; the thread that waits for it is left alone then.
    """
    made: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            for one in findings:
                made.put(one)
            made.put(None)
        except BaseException as error:
            made.put(error)

    threading.Thread(target=look, daemon=True).start()
    deadline = time.monotonic() + limit_s
    while True:
        try:
            found = made.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield Finding(PROBLEM, about, f"was not looked over within {limit_s:g} s", "see why it is so slow")
            return
        if found is None:
            return
        if isinstance(found, BaseException):
            raise found
        yield found


def examine_broker(broker: Broker, extra_streams: Iterable[str] = ()) -> Iterator[Finding]:
    """What is found out about the broker, and about the streams that workers registered, ``extra_streams`` and those
    that are there with messages of ours.
    """
    link = Link(broker.url, PRODUCER)
    streams = list(extra_streams)
    try:
        yield from _server(link)
        yield from _permissions(link, streams[0] if streams else None)
        yield from _clock(broker)
        there, complete = broker.streams_there()
        if not complete:
            text = "not every key of it was looked at, so queues that no worker ever read may be missing here"
            yield Finding(NOTE, "broker", text, "allow its user SCAN, if that is not permitted")
        yield from _streams(link, overview(broker, [*streams, *there]))
    except (redis.RedisError, OSError) as error:
        yield _unavailable(translate(error, broker.display_url, sent=False))
    except TaskstreamError as error:
        yield _unavailable(error)
    finally:
        link.close()


def _unavailable(error: TaskstreamError) -> Finding:
    if isinstance(error, WrongKind):
        return _broken(str(error))
    if isinstance(error, ConfigError):
        return Finding(PROBLEM, "broker", str(error), "check its URL, and what its user may do")
    return Finding(PROBLEM, "broker", str(error), "start it, or name another with --broker or TASKSTREAM_BROKER")


def _broken(problem: str) -> Finding:
    text, _, remedy = problem.partition("value: ")
    return Finding(PROBLEM, "broker", f"{text}value", remedy)


def _server(link: Link) -> Iterator[Finding]:
    started = time.perf_counter()
    link.call("PING")
    took_ms = (time.perf_counter() - started) * 1000
    facts = health.read_facts(link.replies)
    if facts is None:
        yield Finding(
            NOTE,
            "broker",
            f"answers in {took_ms:.1f} ms; what it is cannot be asked",
            "allow its user the command INFO",
        )
        return
    yield Finding(NOTE, "broker", f"{facts.version_text} answers in {took_ms:.1f} ms")
    minimum = health.MINIMUM[facts.product]
    if facts.version and facts.version < minimum:
        wanted = " or ".join(f"{name} {major}.{minor}" for name, (major, minor) in health.MINIMUM.items())
        yield Finding(PROBLEM, "broker", f"{facts.version_text} is too old", f"use {wanted} or later")
    if facts.role not in (None, "master"):
        yield Finding(PROBLEM, "broker", "this is a replica, which takes no writes", "name the primary, or Sentinel")
    yield from _memory(facts)
    yield from _persistence(facts)


def _memory(facts: health.ServerFacts) -> Iterator[Finding]:
    risk = health.eviction_risk(facts)
    if risk is not None:
        yield Finding(
            PROBLEM, "broker", risk, "set maxmemory-policy to noeviction: producers then get an error instead"
        )
    elif facts.policy not in (None, "noeviction"):
        yield Finding(
            NOTE,
            "broker",
            f"maxmemory-policy is {facts.policy}; without maxmemory nothing is evicted",
            "set it to noeviction before anybody sets maxmemory",
        )
    if facts.maxmemory and facts.used_memory and facts.used_memory > NEARLY_FULL * facts.maxmemory:
        used = facts.used_memory / facts.maxmemory
        yield Finding(PROBLEM, "broker", f"{used:.0%} of maxmemory is used", "raise maxmemory, or let more workers run")


def _persistence(facts: health.ServerFacts) -> Iterator[Finding]:
    remedy = "set appendonly to yes, and appendfsync to everysec or always"
    if facts.write_error:
        yield Finding(PROBLEM, "broker", "its last write to disk failed", "see its log; free some space on its disk")
    if facts.aof is False and facts.snapshots is False:
        yield Finding(PROBLEM, "broker", "nothing is kept on disk: a restart loses every message", remedy)
    elif facts.aof is False:
        yield Finding(PROBLEM, "broker", "no append-only file: a crash loses what came after the last snapshot", remedy)
    elif facts.aof and facts.appendfsync == "everysec":
        yield Finding(
            NOTE,
            "broker",
            "appendfsync is everysec: a power cut may lose about the last 2 s",
            "set it to always if that is too much; it costs throughput",
        )
    elif facts.aof and facts.appendfsync == "no":
        yield Finding(
            PROBLEM, "broker", "appendfsync is no: a power cut loses what the system had not written yet", remedy
        )


def _permissions(link: Link, stream: str | None) -> Iterator[Finding]:
    missing = health.missing_permissions(link.replies, stream)
    if missing:
        yield Finding(PROBLEM, "broker", f"its user may not use {', '.join(missing)}", "allow that in the server's ACL")


def _clock(broker: Broker) -> Iterator[Finding]:
    before = time.time()
    theirs = broker.now_ms() / 1000
    apart = theirs - (before + time.time()) / 2
    if abs(apart) > CLOCK_S:
        yield Finding(
            NOTE,
            "broker",
            f"its clock is {abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} this host's; "
            "leases and delays go by the broker's alone, times in logs and results by each host's",
            "let both follow one time server",
        )


def _streams(link: Link, seen: Overview) -> Iterator[Finding]:
    if seen.streams and not seen.workers:
        yield Finding(NOTE, "workers", "none is alive", "start a pool with `taskstream worker`")
    yield from map(_broken, seen.problems)
    for one in seen.streams:
        if one.length and not one.groups:
            yield Finding(
                PROBLEM,
                one.name,
                f"{_messages(one.length)} in queue {one.name}, which no worker has ever read",
                f"start one with `taskstream worker -Q {one.name}`; if the name is a mistake, DEL {one.name} "
                "removes the queue with its messages",
            )
    groups = [(stream.name, group) for stream in seen.streams for group in stream.groups]
    before_ms = int(seen.at_ms - OVERDUE_S * 1000)
    overdue = health.overdue_leases(link.replies, [(stream, group.name) for stream, group in groups], before_ms)
    consumed = {(one.stream, one.group) for worker in seen.workers for one in worker.subscriptions}
    for (stream, group), dead_consumers in zip(groups, overdue, strict=True):
        yield from _group(stream, group, dead_consumers, consumed=(stream, group.name) in consumed)


def _group(stream: str, group: GroupView, dead_consumers: int, *, consumed: bool) -> Iterator[Finding]:
    label = group.label
    about = label or f"group {group.name} of {stream}"
    start = f"start a worker that has {label}" if label else "start what reads it"
    left = group.waiting + group.held
    if not consumed and left and (group.oldest_age_s or 0.0) > OVERDUE_S:
        is_left = _left(group)
        if group.choice == "stopped":
            yield Finding(NOTE, about, f"{is_left}: it was stopped", f"taskstream control start {label or group.name}")
        else:
            # Through the client of any language, because a group that no worker ever had is none of ours.
            yield Finding(
                PROBLEM,
                about,
                f"{is_left} and no worker reads them, so that stream {stream} cannot be trimmed",
                f"{start}; if nothing ever will, XGROUP DESTROY {stream} {group.name} removes the group, which loses "
                f"its {_messages(left)}",
            )
    elif dead_consumers:
        yield Finding(
            PROBLEM,
            about,
            f"{dead_consumers} consumer{'s are' if dead_consumers != 1 else ' is'} dead for over {OVERDUE_S:.0f} s "
            f"and nobody took over what {'they' if dead_consumers != 1 else 'it'} held",
            start,
        )
    if group.dead:
        text = f"{group.dead} dead letter{'s' * (group.dead != 1)}"
        yield Finding(NOTE, about, text, f"see `taskstream dead list {label or stream}`")


def _messages(count: int) -> str:
    return f"{count} message{'s' * (count != 1)}"


def _left(group: GroupView) -> str:
    """What is not done, in words: waiting, or held by a worker that is gone."""
    waiting = f"{_messages(group.waiting)} wait{'s' * (group.waiting == 1)}"
    if not group.held:
        return waiting
    held = f"{_messages(group.held)} {'is' if group.held == 1 else 'are'} still held by workers that are gone"
    return f"{waiting}, {held}" if group.waiting else held


def examine_results(store: ResultStore) -> Iterator[Finding]:
    """What is found out about a result store."""
    scheme, _, rest = store.url.partition("://")
    where = f"results {display_url(store.url)}"
    folder = folder_of(store.url)
    if folder is not None:
        yield from _folder(where, folder)
    kind = file_system(Path(rest)) if scheme == "file" else None
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding(
            PROBLEM,
            where,
            f"it is on a network file system ({kind}), where a database of SQLite gets damaged",
            "use a folder of this host, or redis://… for several hosts",
        )
    try:
        store.read("taskstream-doctor")
    except ResultUnavailable as error:
        yield Finding(PROBLEM, where, str(error), "workers pause until it can be written; see that it is there")


def _folder(where: str, folder: Path) -> Iterator[Finding]:
    problem = unwritable(folder)
    if problem is not None:
        yield Finding(PROBLEM, where, *problem)
        return
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(existing(folder)).free
        if free < LOW_DISK_BYTES:
            yield Finding(
                PROBLEM,
                where,
                f"only {free // 2**20} MiB are free on its disk; when it is full, workers pause",
                "free some space, or shorten the retention of results",
            )


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The kind of file system that a folder is on, or will be, as Linux calls it; None where that is not known.

    ``mounts`` is a table in the form of proc_pid_mounts(5).
    """
    with contextlib.suppress(OSError):
        place = folder.resolve()
        kinds = [line.split()[1:3] for line in mounts.read_text(errors="replace").splitlines() if line.count(" ") >= 2]
        above = [(len(at), kind) for at, kind in kinds if place.is_relative_to(at.replace("\\040", " "))]
        # The last of several mounts on one place is the one that is seen.
        return max(reversed(above), key=lambda one: one[0])[1] if above else None
    return None
