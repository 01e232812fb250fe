"""A server of the model that does everything on a real one too, through the worker's own ConsumerGroup and scripts.

After each step the whole key space has to be what the model says, and each answer the model's. Time does not pass on
the real server: a tick of the model is TICK_MS taken off every lease and delay, many times what a walk lasts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import redis

from taskstream import keys
from taskstream.broker import group as broker_group
from taskstream.broker.group import Batch, ConsumerGroup
from taskstream.broker.letters import DeadLetter, Letters
from taskstream.broker.publisher import Publisher
from taskstream.link import Link
from taskstream.message import DEATHS_HEADER, Message, fields_json, from_fields, from_fields_json

from .rules import ALL
from .server import DELAY, LEASE, SUSPECT, Body, Entry, Move, S, Server, again

TICK_MS = 1_000_000


class DifferenceError(AssertionError):
    """The real server is not where the model is."""


def message(body: Body) -> Message:
    """As the worker would put it back."""
    headers = {DEATHS_HEADER: body.deaths} if body.deaths else None
    return Message(body.msg, "n", b"{}", headers, body.attempt, body.deliveries)


def body(found: Message) -> Body:
    """The inverse."""
    return Body(found.id, found.attempt, found.deliveries, (found.headers or {}).get(DEATHS_HEADER, 0))


def letter(dead: Body) -> str:
    """A dead letter as a worker writes it."""
    error = {"type": "ValueError", "message": "", "traceback": ""}
    fields = json.loads(fields_json(message(dead)))
    return json.dumps({"name": "n", "fields": fields, "error": error, "deliveries": dead.deliveries})


class Mirror(Server):
    """The model's server and a real one in step."""

    def __init__(self, link: Link, publisher: Publisher) -> None:
        self.call, self.publisher = link.call, publisher
        self.call("FLUSHALL")
        seconds, micros = self.call("TIME")
        self.epoch = int(seconds) * 1000 + int(micros) // 1000
        self.ids: dict[tuple[str, int], str] = {}  # the real ids of entries
        super().__init__(ALL)

    # -- scripts and commands on both ----------------------------------------------------------------------

    def _consumer(self, group: str, consumer: str) -> ConsumerGroup:
        return ConsumerGroup(S, group, consumer, LEASE * TICK_MS)

    def _same(self, what: str, model: Any, real: Any) -> None:
        if model != real:
            raise DifferenceError(f"{what}: the model has {model}, the server {real}")

    def _entries(self, found: Iterable[broker_group.Entry], group: str) -> list[Entry]:
        known = {(stream, real): entry for (stream, entry), real in self.ids.items()}
        entries = []
        for one in found:
            stream = again(group) if one.from_again else S
            number = known[stream, one.entry_id]
            entries.append(Entry(stream, number, body(from_fields(one.fields)), one.times, one.deaths, bool(one.why)))
        return entries

    def tick(self) -> None:
        super().tick()
        for key in self.call("KEYS", "ts:{S}:leases:*") + self.call("KEYS", "ts:{S}:delayed:*"):
            for member, score in self._scores(key).items():
                if score >= 2:
                    self.call("ZADD", key, repr(score - TICK_MS), member)
        self.compare()

    def publish_once(self, unique: str, msg: str) -> None:
        super().publish_once(unique, msg)
        self.publisher.publish_once(S, message(Body(msg)), unique)
        self.compare()

    def register(self, group: str, consumer: str) -> bool:
        model = super().register(group, consumer)
        self._same("register", model, self._consumer(group, consumer).register(self.call))
        self.compare()
        return model

    def renew(self, group: str, consumer: str) -> bool:
        model = super().renew(group, consumer)
        self._same("renew", model, self._consumer(group, consumer).renew(self.call).held)
        self.compare()
        return model

    def read(self, group: str, consumer: str, count: int) -> list[Entry] | None:
        model = super().read(group, consumer, count)
        real: list[Entry] | None
        try:
            real = self._entries(self._consumer(group, consumer).read(self.call, count, None), group)
        except redis.ResponseError as error:
            if not broker_group.group_is_gone(error):
                raise
            real = None
        self._same("read", model, real)
        self.compare()
        return model

    def commit(self, group: str, consumer: str, moves: tuple[Move, ...], alone: bool) -> bool:
        model = super().commit(group, consumer, moves, alone)
        batch = Batch()
        for kind, stream, entry, put_back, _ in moves:
            at = (stream != S, self.ids[stream, entry])
            if kind == "a":
                batch.ack(*at)
            elif kind == "s":
                batch.ack_suspect(*at, put_back.msg)
            elif kind == "r":
                batch.retry(*at, put_back.msg, DELAY * TICK_MS, fields_json(message(put_back)))
            elif kind == "g":
                batch.give_back(*at, put_back.msg, fields_json(message(put_back)))
            else:
                batch.bury(*at, put_back.msg, letter(put_back))
        self._same("commit", model, self._consumer(group, consumer).commit(self.call, batch, "")[0])
        self.compare()
        return model

    def missing(self, group: str, consumer: str, known: set[tuple[str, int]]) -> list[Entry]:
        model = super().missing(group, consumer, known)
        real_known = {(stream != S, self.ids[stream, entry]) for stream, entry in known if (stream, entry) in self.ids}
        found = self._consumer(group, consumer).missing(
            self.call, lambda from_again, entry: (from_again, entry) in real_known, 1000
        )
        self._same("missing", sorted(model), sorted(self._entries(found, group)))
        self.compare()
        return model

    def sweep(self, group: str) -> dict[str, float]:
        model = super().sweep(group)
        real = dict(self._consumer(group, "anyone").sweep(self.call))
        self._same("sweep", model, {name: self._model_score(score) for name, score in real.items()})
        self.compare()
        return model

    def claim(self, group: str, me: str, victim: str, observed: float, room: int) -> tuple[int, list[Entry]]:
        seen = observed if observed < 2 else self._real_score(observed)
        real = self._consumer(group, me).claim(self.call, victim, seen, room, SUSPECT)
        entries = self._entries(real.entries, group)
        model = super().claim(group, me, victim, observed, room)
        answer = -1 if real.mine_ran_out else 1 if real.finished else 2
        self._same("claim", (model[0] or 1, model[1]), (answer, entries))
        self.compare()
        return model

    def release(self, group: str, consumer: str, started: tuple[tuple[str, str], ...]) -> None:
        super().release(group, consumer, started)
        self._consumer(group, consumer).release(self.call, dict(started))
        self.compare()

    def absolve(self, group: str, consumer: str, held: tuple[tuple[str, int, str], ...]) -> list[tuple[str, int, str]]:
        counted = super().absolve(group, consumer, held)
        real = [(stream != S, self.ids[stream, entry], msg) for stream, entry, msg in held]
        self._consumer(group, consumer).absolve(self.call, real)
        self.compare()
        return counted

    def promote(self, group: str, now: int) -> None:
        super().promote(group, now)
        self._consumer(group, "anyone").promote(self.call, 100)
        self.compare()

    def requeue(self, group: str, msg: str) -> None:
        super().requeue(group, msg)
        letters = Letters(self.publisher, S, group)
        self._same("requeue", [True], [one.done for one in letters.requeue(self._letters(letters, msg))])
        self.compare()

    def purge(self, group: str, msg: str) -> None:
        super().purge(group, msg)
        letters = Letters(self.publisher, S, group)
        self._same("purge", [True], [one.done for one in letters.purge(self._letters(letters, msg))])
        self.compare()

    @staticmethod
    def _letters(letters: Letters, msg: str) -> list[DeadLetter]:
        return [letter for found, _ in letters.get([msg]) for letter in found]

    def trim(self, group: str) -> None:
        super().trim(group)
        self._consumer(group, "anyone").trim(self.call, 1000)
        self.compare()

    def lose_leases(self, group: str) -> None:
        super().lose_leases(group)
        self.call("DEL", keys.leases(S, group))
        self.compare()

    def flush(self) -> None:
        super().flush()
        self.call("FLUSHALL")
        self.compare()

    # -- the whole key space -------------------------------------------------------------------------------

    def compare(self) -> None:
        """Raise DifferenceError unless the real server holds exactly what the model does."""
        groups = sorted({group for _, group in self.last})
        for stream in (S, *map(again, groups)):
            self._compare_stream(stream)
        for group in groups:
            self._compare_scores(group)
            deaths = self._hash(keys.deaths(S, group))
            model = {msg: n for (g, msg), n in self.deaths.items() if g == group}
            real = {msg: int(n) for msg, n in deaths.items() if not msg.endswith(" why")}
            self._same(f"deaths of {group}", model, real)
            ended = {f"{msg} why" for g, msg in self.why if g == group}
            self._same(f"runs ended of {group}", ended, deaths.keys() - real.keys())
            buried = {msg for g, msg in self.dead if g == group}
            self._same(f"letters of {group}", buried, set(self._hash(keys.letters(S, group))))
            self._same(f"dead of {group}", buried, {name.decode() for name in self._scores(keys.dead(S, group))})

    def _compare_stream(self, stream: str) -> None:
        key = S if stream == S else keys.again(S, stream.removeprefix("again:"))
        model = sorted((entry, one) for (s, entry), one in self.entries.items() if s == stream)
        rows = self.call("XRANGE", key, "-", "+")
        real = [body(from_fields(fields)) for _, fields in rows]
        self._same(f"entries of {stream}", [one for _, one in model], real)
        for (entry, _), (raw, _) in zip(model, rows, strict=True):
            self._same(f"entry {entry}", self.ids.setdefault((stream, entry), raw.decode()), raw.decode())
        for found in self.call("XINFO", "GROUPS", key) if self.call("EXISTS", key) else ():
            group = found[1].decode()
            last = self.ids.get((stream, self.last[stream, group]), "0-0")
            self._same(f"{group} has read of {stream}", last, found[7].decode())
            held = {
                raw.decode(): (consumer.decode(), times)
                for raw, consumer, _, times in self.call("XPENDING", key, group, "-", "+", 1000)
            }
            pending = {
                self.ids[s, entry]: holder
                for (g, s, entry), holder in self.pending.items()
                if (g, s) == (group, stream)
            }
            self._same(f"{group} holds of {stream}", pending, held)
            consumers = {row[1].decode() for row in self.call("XINFO", "CONSUMERS", key, group)}
            self._same(f"consumers of {group}", {name for g, name in self.consumers if g == group}, consumers)

    def _compare_scores(self, group: str) -> None:
        """Leases and delays, whose real times are brought back to full ticks meanwhile."""
        leases, delayed = keys.leases(S, group), keys.delayed(S, group)
        model: dict[str, float] = {name: score for (g, name), score in self.leases.items() if g == group}
        real = {name.decode(): self._settle(leases, name, score) for name, score in self._scores(leases).items()}
        self._same(f"leases of {group}", model, real)
        due: dict[Body, float] = {one: at for (g, one), at in self.delayed.items() if g == group}
        found = {
            body(from_fields_json(raw)): self._settle(delayed, raw, score)
            for raw, score in self._scores(delayed).items()
        }
        self._same(f"delayed of {group}", due, found)

    def _settle(self, key: str, member: bytes, score: float) -> float:
        model = self._model_score(score)
        if score >= 2:
            self.call("ZADD", key, repr(self._real_score(model)), member)
        return model

    def _model_score(self, score: float) -> float:
        if score < 2:
            return score
        return self.now + round((score - self.epoch) / TICK_MS) + score % 1

    def _real_score(self, score: float) -> float:
        return self.epoch + (int(score) - self.now) * TICK_MS + score % 1

    def _scores(self, key: str | bytes) -> dict[bytes, float]:
        flat = self.call("ZRANGE", key, 0, -1, "WITHSCORES")
        return {name: float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}

    def _hash(self, key: str) -> dict[str, bytes]:
        flat = self.call("HGETALL", key)
        return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
