"""What a broker is and may do, as far as Taskstream depends on it. Looks only; its probes change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import redis

from taskstream import keys

Replies = Callable[[list[tuple[Any, ...]]], list[Any]]
"""Sends commands in one round trip; error replies are among the replies, as exceptions."""

MINIMUM = {"Redis": (7, 0), "Valkey": (8, 0)}
"""The oldest releases whose commands are enough."""

_REFUSED = ("NOPERM", "-NOPERM")


class ServerFacts(NamedTuple):
    """What a server says about itself; None where it does not say or may not be asked.

    ``maxmemory`` and ``used_memory`` in bytes, ``maxmemory`` 0 without a limit. ``aof`` whether there is an append-only
    file, ``appendfsync`` its policy, ``snapshots`` whether it saves snapshots by itself, ``write_error`` whether its
    last write to disk failed.
    """

    product: str
    version: tuple[int, ...]
    role: str | None
    policy: str | None
    maxmemory: int | None
    used_memory: int | None
    aof: bool | None
    appendfsync: str | None
    snapshots: bool | None
    write_error: bool

    @property
    def version_text(self) -> str:
        """Such as ``Valkey 9.1.0``."""
        return f"{self.product} {'.'.join(map(str, self.version))}"


def read_facts(replies: Replies) -> ServerFacts | None:
    """Ask the server about itself, with one command; None if that is not permitted."""
    info, *settings = replies([("INFO",), ("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "save")])
    if isinstance(info, redis.ResponseError):
        return None
    said = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    # Many services do not permit CONFIG.
    appendfsync, save = (
        reply[1].decode() if isinstance(reply, list) and len(reply) == 2 else None for reply in settings
    )
    product = "Valkey" if "valkey_version" in said else "Redis"
    version = said.get("valkey_version" if product == "Valkey" else "redis_version", "")
    return ServerFacts(
        product,
        tuple(int(part) for part in version.split(".") if part.isdigit()),
        said.get("role"),
        said.get("maxmemory_policy"),
        _number(said.get("maxmemory")),
        _number(said.get("used_memory")),
        said["aof_enabled"] == "1" if "aof_enabled" in said else None,
        appendfsync,
        None if save is None else bool(save.strip()),
        "err" in (said.get("aof_last_write_status"), said.get("rdb_last_bgsave_status")),
    )


def eviction_risk(facts: ServerFacts) -> str | None:
    """What this server will delete when its memory is full, as a clause; None if nothing.

    A policy without ``maxmemory`` never evicts, so that is no risk now.
    """
    if facts.policy in (None, "noeviction") or not facts.maxmemory:
        return None
    lost = (
        "idempotency keys, counted deaths of workers and results kept in Redis"
        if str(facts.policy).startswith("volatile")
        else "queued work"
    )
    return f"maxmemory-policy is {facts.policy}, so that a full server deletes {lost}"


def missing_permissions(replies: Replies, stream: str | None) -> list[str]:
    """The commands that the user of this connection may not use, sorted.

    Asked with ACL DRYRUN, on the keys of ``stream``, where that is permitted; else by using each in a form that does
    nothing, on keys that nothing has.
    """
    whoami = replies([("ACL", "WHOAMI")])[0]
    if isinstance(whoami, bytes):
        probes = [*_probes(stream or _NOWHERE, "taskstream"), *_NOT_HARMLESS]
        found = replies([("ACL", "DRYRUN", whoami, *probe) for probe in probes])
        if not isinstance(found[0], redis.ResponseError):
            # What is not permitted is said in an answer, not by an error.
            return sorted({_name(probe) for probe, reply in zip(probes, found, strict=True) if _denied(reply)})
    probes = _probes(_NOWHERE, _NOWHERE)
    found = replies(probes)
    return sorted({_name(probe) for probe, reply in zip(probes, found, strict=True) if _refused(reply)})


def overdue_leases(replies: Replies, groups: list[tuple[str, str]], before_ms: int) -> list[int]:
    """For each ``(stream, group)``: how many consumers' leases were given up, or ended before ``before_ms``."""
    found = replies([("ZCOUNT", keys.leases(*group), "-inf", before_ms) for group in groups]) if groups else []
    return [0 if isinstance(count, redis.ResponseError) else int(count) for count in found]


_NOWHERE = "taskstream-doctor"
"""A stream that nothing has."""


_NOT_HARMLESS: list[tuple[Any, ...]] = [
    ("RPUSH", keys.reply(_NOWHERE), "v"),
    ("BLPOP", keys.reply(_NOWHERE), 1),
    ("SUBSCRIBE", keys.CONTROL_CHANNEL),
]
"""What can be asked about, but not tried."""


def _probes(stream: str, group: str) -> list[tuple[Any, ...]]:
    """Nearly every command that producers, workers and operators use, so that it does nothing on keys of nothing."""
    own, zset, text = keys.again(stream, group), keys.leases(stream, group), keys.watched(stream)
    table = keys.deaths(stream, group)
    return [
        ("PING",),
        ("TIME",),
        ("EVAL", "return 1", 0),
        ("SCRIPT", "EXISTS", "0" * 40),
        ("EXISTS", text),
        ("GET", text),
        ("MGET", text),
        ("SET", text, "1", "XX"),
        ("DEL", text),
        ("EXPIRE", text, 1),
        ("PEXPIRE", text, 1),
        ("PERSIST", text),
        ("HGET", table, "f"),
        ("HMGET", table, "f"),
        ("HGETALL", table),
        ("HDEL", table, "f"),
        # Refused for what is said, after it was looked at who says it.
        ("HSET", table, "f", "v", "g"),
        ("HINCRBY", table, "f", "no number"),
        ("ZADD", zset, "XX", 1, "m"),
        ("ZREM", zset, "m"),
        ("ZRANGE", zset, 0, 0),
        ("ZRANGEBYSCORE", zset, 0, 0),
        ("ZREVRANGEBYSCORE", zset, 0, 0),
        ("ZREMRANGEBYSCORE", zset, 0, 0),
        ("ZCARD", zset),
        ("ZCOUNT", zset, 0, 0),
        ("ZSCORE", zset, "m"),
        ("ZMSCORE", zset, "m"),
        ("LTRIM", keys.reply(group), 0, 0),
        ("LRANGE", keys.reply(group), 0, 0),
        ("PUBLISH", keys.done_channel(stream), ""),
        ("CLIENT", "ID"),
        ("CLIENT", "LIST", "ID", 1),
        ("CLIENT", "UNBLOCK", 0),
        *_stream_probes(own, group),
        *(_stream_probes(stream, group) if stream != _NOWHERE else ()),
    ]


def _stream_probes(stream: str, group: str) -> list[tuple[Any, ...]]:
    return [
        ("XADD", stream, "NOMKSTREAM", "*", "f", "v"),
        ("XLEN", stream),
        ("XRANGE", stream, "-", "+", "COUNT", 1),
        ("XREVRANGE", stream, "+", "-", "COUNT", 1),
        ("XGROUP", "CREATE", stream, group, "0"),
        ("XGROUP", "CREATECONSUMER", stream, group, "c"),
        ("XGROUP", "DELCONSUMER", stream, group, "c"),
        ("XINFO", "GROUPS", stream),
        ("XINFO", "CONSUMERS", stream, group),
        ("XREADGROUP", "GROUP", group, "c", "COUNT", 1, "STREAMS", stream, ">"),
        ("XPENDING", stream, group, "-", "+", 1),
        ("XCLAIM", stream, group, "c", 0, "0-1"),
        ("XACK", stream, group, "0-1"),
        ("XDEL", stream, "0-1"),
        ("XTRIM", stream, "MINID", "0-1"),
    ]


def _name(probe: tuple[Any, ...]) -> str:
    parts = probe[:2] if probe[0] in ("CLIENT", "SCRIPT", "XGROUP", "XINFO") else probe[:1]
    return " ".join(parts)


def _denied(reply: Any) -> bool:
    return isinstance(reply, bytes) and reply != b"OK"


def _refused(reply: Any) -> bool:
    return isinstance(reply, redis.exceptions.NoPermissionError) or (
        isinstance(reply, redis.ResponseError) and str(reply).startswith(_REFUSED)
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
