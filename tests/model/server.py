"""The server's side: what Redis holds, and one method for each script or command. Every method is one step.

Times are ticks of Redis' clock; a lease lasts LEASE of them. Entry ids count up over all streams.
"""

from __future__ import annotations

from typing import NamedTuple

from .flat import Flat
from .rules import ALL

LEASE = 2
DELAY = 1
MAX_DELIVERIES = 2
SUSPECT = 1
"""A message with so many deaths runs alone: one more makes it poison."""
S = "S"


class Body(NamedTuple):
    """What an entry carries; ``deaths`` as far as they were known to who put it back."""

    msg: str
    attempt: int = 1
    deliveries: int = 0
    deaths: int = 0


class Move(NamedTuple):
    """One message's end in a commit: a ack, s ack of a suspect, r retry, g give back, d dead letter."""

    kind: str
    stream: str
    entry: int
    body: Body
    number: int = 0


class Entry(NamedTuple):
    """What a reader or a claim is handed: ``times`` counts hand-outs, ``why`` says that a run was ended on purpose."""

    stream: str
    entry: int
    body: Body
    times: int
    deaths: int = 0
    why: bool = False


def again(group: str) -> str:
    """The group's own stream."""
    return f"again:{group}"


class Server(Flat):
    """Redis. ``on`` are the rules that hold."""

    STATE = (
        "now", "up", "next", "entries", "last", "consumers", "pending", "leases", "delayed", "deaths", "why", "dead",
        "published",
    )  # fmt: skip

    def __init__(self, on: frozenset[str] = ALL) -> None:
        self.on = on
        self.now = 10
        self.up = True
        self.next = 1
        self.clear()

    def clear(self) -> None:
        """FLUSHALL."""
        self.entries: dict[tuple[str, int], Body] = {}  # (stream, entry)
        self.last: dict[tuple[str, str], int] = {}  # (stream, group): last delivered entry
        self.consumers: dict[tuple[str, str], bool] = {}  # (group, consumer)
        self.pending: dict[tuple[str, str, int], tuple[str, int]] = {}  # (group, stream, entry): (consumer, times)
        self.leases: dict[tuple[str, str], float] = {}  # (group, consumer): score, as in docs/delivery.md
        self.delayed: dict[tuple[str, Body], int] = {}  # (group, body): due
        self.deaths: dict[tuple[str, str], int] = {}  # (group, message)
        self.why: dict[tuple[str, str], bool] = {}  # (group, message): its run was ended on purpose
        self.dead: dict[tuple[str, str], Body] = {}  # (group, message)
        self.published: dict[str, str] = {}  # key of its sender: message

    def tick(self) -> None:
        """Time passes."""
        self.now += 1

    # -- looking -----------------------------------------------------------------------------------------

    def groups(self) -> list[str]:
        """The groups of the main stream."""
        return sorted(group for stream, group in self.last if stream == S)

    def held(self, group: str, consumer: str) -> list[tuple[str, int]]:
        """XPENDING of both streams."""
        return sorted((s, e) for (g, s, e), (who, _) in self.pending.items() if g == group and who == consumer)

    def lease_holds(self, group: str, consumer: str) -> bool:
        """Whether the consumer has a lease that is its own: not given up, not taken, not one of grace (in .5)."""
        score = self.leases.get((group, consumer), 0)
        return score >= 2 and score % 1 == 0

    def unread(self, stream: str, group: str) -> list[int]:
        """Entries the group has not been handed yet."""
        last = self.last[stream, group]
        return sorted(entry for s, entry in self.entries if s == stream and entry > last)

    def _add(self, stream: str, body: Body) -> None:
        self.entries[stream, self.next] = body
        self.next += 1

    # -- commands and scripts ----------------------------------------------------------------------------

    def publish_once(self, unique: str, msg: str) -> None:
        """publish_once.lua"""
        if unique in self.published:
            return
        self._add(S, Body(msg))
        if "publish_record" in self.on:
            self.published[unique] = msg

    def make_groups(self, group: str) -> None:
        """The first half of register.lua."""
        for stream in (S, again(group)):
            at = 0 if "group_at_0" in self.on else max((e for s, e in self.entries if s == stream), default=0)
            self.last.setdefault((stream, group), at)

    def register(self, group: str, consumer: str) -> bool:
        """register.lua"""
        self.make_groups(group)
        if (group, consumer) in self.leases:
            return False
        self.leases[group, consumer] = self.now + LEASE
        self.consumers[group, consumer] = True
        return True

    def renew(self, group: str, consumer: str) -> bool:
        """renew.lua"""
        if not self.lease_holds(group, consumer):
            return False
        self.leases[group, consumer] = self.now + LEASE
        return True

    def read(self, group: str, consumer: str, count: int) -> list[Entry] | None:
        """XREADGROUP of the group's own stream and the main one; None if the group is gone."""
        if (S, group) not in self.last:
            return None
        self.consumers[group, consumer] = True
        found = []
        for stream in (again(group), S):
            for entry in self.unread(stream, group)[:count]:
                self.last[stream, group] = entry
                self.pending[group, stream, entry] = (consumer, 1)
                found.append(Entry(stream, entry, self.entries[stream, entry], 1))
        return found

    def commit(self, group: str, consumer: str, moves: tuple[Move, ...], alone: bool) -> bool:
        """commit.lua; ``alone`` is what the worker knew when it registered: whether the group was the only one."""
        if "fence" in self.on and not self.lease_holds(group, consumer):
            return False
        if "groups_in_script" in self.on:
            alone = self.groups() == [group]
        for kind, stream, entry, body, _ in moves:
            acked = self.pending.pop((group, stream, entry), None) is not None
            if kind in "rgd" and (acked or "ack_decides" not in self.on) and "atomic_move" in self.on:
                self.second_half(group, kind, body)
            if acked and kind in "sd":
                self.deaths.pop((group, body.msg), None)
            if acked and kind in "sdr":
                self.why.pop((group, body.msg), None)
            if (acked or kind == "a") and (alone or stream != S):
                self.entries.pop((stream, entry), None)
        return True

    def second_half(self, group: str, kind: str, body: Body) -> None:
        """Where a message goes that is not done."""
        if kind == "r":
            self.delayed[group, body] = self.now + DELAY
        elif kind == "g":
            self._add(again(group) if "again" in self.on else S, body)
        else:
            self.dead[group, body.msg] = body

    def missing(self, group: str, consumer: str, known: set[tuple[str, int]]) -> list[Entry]:
        """ConsumerGroup.missing: what is held by ``consumer`` that it does not know of."""
        found = [self.look_for(group, *at) for at in self.held(group, consumer) if at not in known]
        return [entry for entry in found if entry is not None]

    def look_for(self, group: str, stream: str, entry: int) -> Entry | None:
        """What ``missing`` finds out about one pending entry."""
        held = self.pending.get((group, stream, entry))
        body = self.entries.get((stream, entry))
        if body is None:
            self.pending.pop((group, stream, entry), None)
            return None
        return self._handed(group, stream, entry, held[1] if held else 1)

    def _handed(self, group: str, stream: str, entry: int, times: int) -> Entry:
        body = self.entries[stream, entry]
        at = (group, body.msg)
        return Entry(stream, entry, body, times, self.deaths.get(at, 0), at in self.why)

    def sweep(self, group: str) -> dict[str, float]:
        """sweep.lua"""
        grace = self.now + LEASE + (0.5 if "grace_is_nobodys" in self.on else 0)
        if "grace" in self.on:
            for g, consumer in self.consumers:
                if g == group:
                    self.leases.setdefault((group, consumer), grace)
        return {consumer: score for (g, consumer), score in self.leases.items() if g == group}

    def claim(self, group: str, me: str, victim: str, observed: float, room: int) -> tuple[int, list[Entry]]:
        """claim.lua; (-1, 0, 1 or 2, entries)"""
        mine = self.leases.get((group, me), 0)
        if "own_lease" in self.on and (mine <= self.now or mine % 1):
            return -1, []
        score = self.leases.get((group, victim))
        if score is None:
            return 0, []
        if "claim_checks" in self.on and score >= 2 and (int(score) > self.now or score != observed):
            return 0, []
        if score >= 1:
            score = -1 if score == 1 else 0
            if "mark" in self.on:
                self.leases[group, victim] = score
        found = []
        for stream, entry in sorted(self.held(group, victim), key=lambda at: at[0] != S)[:room]:
            _, times = self.pending.pop((group, stream, entry))
            body = self.entries.get((stream, entry))
            room -= 1
            if body is None:
                continue
            if score == 0 and (group, body.msg) not in self.why:
                self.deaths[group, body.msg] = self.deaths.get((group, body.msg), 0) + 1
            self.pending[group, stream, entry] = (me, times + 1)
            found.append(self._handed(group, stream, entry, times + 1))
            if found[-1].deaths >= SUSPECT and not found[-1].why and "one_suspect" in self.on:
                return 2, found
        if room == 0 and "last_out" in self.on:
            return 2, found
        self._remove(group, victim)
        return 1, found

    def _remove(self, group: str, consumer: str) -> None:
        for stream, entry in self.held(group, consumer):
            del self.pending[group, stream, entry]  # as XGROUP DELCONSUMER does
        self.consumers.pop((group, consumer), None)
        self.leases.pop((group, consumer), None)

    def release(self, group: str, consumer: str, started: tuple[tuple[str, str], ...]) -> None:
        """release.lua; what had ``started``, and why its run was ended on purpose or ''"""
        score = self.leases.get((group, consumer))
        if score is None or (not self.lease_holds(group, consumer) and "release_untaken" in self.on):
            return
        if "release_started" not in self.on:
            started = tuple((self.entries[at].msg, "") for at in self.held(group, consumer))
        for msg, why in started:
            if why and "overrun" in self.on:
                self.why[group, msg] = True
            else:
                self.deaths[group, msg] = self.deaths.get((group, msg), 0) + 1
        if self.held(group, consumer):
            self.leases[group, consumer] = 1
        else:
            self._remove(group, consumer)

    def absolve(self, group: str, consumer: str, held: tuple[tuple[str, int, str], ...]) -> list[tuple[str, int, str]]:
        """absolve.lua; ``held`` and what of it was taken back: stream, entry, message"""
        score = self.leases.get((group, consumer))
        if score in (1, -1) or self.lease_holds(group, consumer):
            return []
        pending = self.held(group, consumer)
        if score is not None or pending:
            self.leases[group, consumer] = -1
        counted = [one for one in held if one[:2] not in pending and (group, one[2]) in self.deaths]
        for _, _, msg in counted:
            self.deaths[group, msg] -= 1
            if not self.deaths[group, msg]:
                del self.deaths[group, msg]
        return counted

    def promote(self, group: str, now: int) -> None:
        """promote.lua; ``now`` is the caller's clock, which counts only where the rule about clocks is off."""
        if "redis_clock" in self.on:
            now = self.now
        for (g, body), due in sorted(self.delayed.items(), key=lambda item: (item[1], item[0])):
            if g == group and due <= now:
                self._add(again(group) if "again" in self.on else S, body)
                del self.delayed[g, body]

    def trim(self, group: str) -> None:
        """trim.lua"""
        needed = []
        for other in self.groups() if "trim_groups" in self.on else [group]:
            needed += self.unread(S, other)
            if "trim_pending" in self.on:
                needed += [e for g, s, e in self.pending if g == other and s == S]
        oldest = min(needed, default=self.next)
        if self.groups():
            for at in [at for at in self.entries if at[0] == S and at[1] < oldest]:
                del self.entries[at]

    def requeue(self, group: str, msg: str) -> None:
        """requeue.lua"""
        body = self.dead.pop((group, msg))
        self.deaths.pop((group, msg), None)
        self.why.pop((group, msg), None)
        self._add(again(group) if "again" in self.on else S, Body(msg, 1, body.deliveries))

    def purge(self, group: str, msg: str) -> None:
        """purge.lua; forget.lua does the same by age"""
        del self.dead[group, msg]

    # -- faults ------------------------------------------------------------------------------------------

    def lose_leases(self, group: str) -> None:
        """The key of the leases is gone."""
        for at in [at for at in self.leases if at[0] == group]:
            del self.leases[at]

    def flush(self) -> None:
        """FLUSHALL."""
        self.clear()
