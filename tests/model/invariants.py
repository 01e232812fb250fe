"""What must hold in every state and over every step."""

from __future__ import annotations

from collections import Counter

from .rules import BLAMED, CHILDREN, LOST, OUTCOME, REMOVED, TWICE, VISIBLE
from .server import S
from .world import Step, World


def places(world: World) -> Counter[tuple[str, str]]:
    """In how many places each message is, by group."""
    server = world.server
    found: Counter[tuple[str, str]] = Counter()
    for (stream, group), last in server.last.items():
        for (s, entry), body in server.entries.items():
            if s == stream and (entry > last or (group, s, entry) in server.pending):
                found[group, body.msg] += 1
    for group, body in server.delayed:
        found[group, body.msg] += 1
    found.update(server.dead.keys())
    found.update(at for at, (kind, _, _) in world.winners.items() if kind in "as")
    return found


def problem(before: World, step: Step, after: World) -> str | None:
    """The first invariant that ``step`` broke."""
    if after.broken:
        return after.broken[0]
    server = after.server
    if step[0] != "flush":
        for at in before.server.entries.keys() - server.entries.keys():
            for group in server.groups() if at[0] == S else ():
                if at[1] > server.last[S, group] or (group, *at) in server.pending:
                    return REMOVED
    for (stream, _), body in server.entries.items():
        if stream == S and (body.deliveries or body.attempt > 1):
            return VISIBLE
    found = places(after)
    if any(n > 1 for n in found.values()):
        return TWICE
    if any(not found[at] for at in after.accepted):
        return LOST
    for won, (_, number, by) in after.winners.items():
        if after.disk.get(won) != (number, by):
            return OUTCOME
    for parent in after.scenario.children:
        kids = sum(1 for at in after.kids if at[0] == parent)
        if kids > 1 or (kids == 0 and any(msg == parent for (_, msg), end in after.winners.items() if end[0] != "d")):
            return CHILDREN
    if after.blamed_wrongly():
        return BLAMED
    return None
