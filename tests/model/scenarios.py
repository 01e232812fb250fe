"""For each rule the smallest scenario in which its absence is found; with all rules on, none of them breaks."""

from __future__ import annotations

from typing import Any

from .state import Scenario

ONE = {"w1": "g"}
TWO_GROUPS = {"w1": "g", "v1": "h"}

BOTH_BLAMED = (
    ("publish", "a"),
    ("publish", "b"),
    ("read", "w1"),
    ("start", "w1", ("S", 1)),
    ("start", "w1", ("S", 2)),
    ("end", "w1", ("S", 1), "x"),
    ("release", "w1"),
    ("restart", "w1"),
    ("join", "w1"),
    ("sweep", "w1"),
    ("claim", "w1", "w1.1", 1),
    ("back", "w1", ("S", 1), "stop"),
)
"""A process died with a killer and its neighbour, and the next one took both over."""

DIED_TOGETHER = (
    ("publish", "a"),
    ("publish", "b"),
    ("read", "w1"),
    ("start", "w1", ("S", 1)),
    ("end", "w1", ("S", 1), "x"),
    ("restart", "w1"),
    ("join", "w1"),
    ("sweep", "w1"),
    ("tick",),
    ("tick",),
    ("sweep", "w1"),
)
"""A killer took process and supervisor along, so that both it and its neighbour are to blame."""

LOST_AND_READING = (
    ("publish", "a"),
    ("read", "w1"),
    ("read", "w1", "late"),
    ("pause", "w1"),
    ("sweep", "w2"),
    ("tick",),
    ("tick",),
    ("sweep", "w2"),
    ("claim", "w2", "w1.1", 12),
    ("claim", "w2", "w1.1", 12),
)
"""A worker sleeps past its lease and is taken over from, with a read of its own still waiting on the server."""

TAKEN_FROM_A_SLEEPER = (
    ("publish", "a"),
    ("read", "w1"),
    ("start", "w1", ("S", 1)),
    ("pause", "w1"),
    ("sweep", "w2"),
    ("tick",),
    ("tick",),
    ("sweep", "w2"),
    ("claim", "w2", "w1.1", 12),
)
"""A worker sleeps past its lease and is taken over from, though no killer was ever sent."""

W1: Any = {"hit": ("w1",), "readers": ("w1",)}
"""Only the first worker reads, and is hit; the second looks on."""

SCENARIOS: dict[str, Scenario] = {
    "fence": Scenario(faults={"late_commit": 1, "pause": 1, "tick": 2}, **W1),
    "mark": Scenario(faults={"pause": 1, "tick": 2}, **W1),
    "ack_decides": Scenario(workers=ONE, ends="f", faults={"lose": 1, "tick": 1}),
    "atomic_move": Scenario(workers=ONE, ends="f"),
    "observation": Scenario(faults={"outage": 1, "tick": 3}, **W1),
    "unbroken": Scenario(faults={"outage": 1, "tick": 3}, **W1),
    "claim_checks": Scenario(faults={"pause": 1, "tick": 3}, **W1),
    "own_lease": Scenario(faults={"kill": 1, "pause": 1, "tick": 2}, readers=("w1",)),
    "new_names": Scenario(faults={"late_commit": 1, "kill": 1, "restart": 1}, **W1),
    "register_first": Scenario(faults={"tick": 4}, **W1),
    "supervisor_renews": Scenario(faults={"hog": 1, "tick": 3}, **W1),
    "deadline": Scenario(faults={"pause": 1, "tick": 2}, **W1),
    "grace": Scenario(
        faults={"late_read": 1, "pause": 1, "tick": 2}, first=(("read", "w1", "late"), ("pause", "w1")), **W1
    ),
    "grace_is_nobodys": Scenario(
        ("a", "b"), faults={"late_read": 1, "pause": 1, "tick": 3}, first=LOST_AND_READING, **W1
    ),
    "last_out": Scenario(("a", "b"), room=2, faults={"kill": 1}, **W1),
    "release_untaken": Scenario(faults={"kill": 1, "tick": 3}, **W1),
    "release_started": Scenario(faults={"kill": 1}, **W1),
    "overrun": Scenario(workers=ONE, faults={"overrun": 2, "restart": 2, "tick": 2, "lose": 1}),
    "poison": Scenario(workers=ONE, killers=("a",), faults={"restart": 2}),
    "alone": Scenario(("a", "b"), ONE, killers=("a",), room=2, piece=2, faults={"restart": 2}),
    "one_suspect": Scenario(
        ("a", "b"),
        ONE,
        killers=("a",),
        together=True,
        room=2,
        piece=2,
        faults={"restart": 2, "tick": 4},
        first=DIED_TOGETHER,
    ),
    "deaths_travel": Scenario(
        ("a", "b"), ONE, killers=("a",), room=2, piece=2, faults={"restart": 2, "stop": 2}, first=BOTH_BLAMED
    ),
    "absolve": Scenario(killers=("b",), faults={"pause": 2, "tick": 4}, first=TAKEN_FROM_A_SLEEPER),
    "outcome_first": Scenario(workers=ONE, faults={"kill": 1, "restart": 1}),
    "delivery_number": Scenario(faults={"late_keep": 1, "pause": 1, "tick": 2}, **W1),
    "reconcile": Scenario(workers=ONE, faults={"lose": 1, "tick": 2}),
    "in_flight": Scenario(workers=ONE, faults={"lose": 1}),
    "look_again": Scenario(workers=TWO_GROUPS, faults={"late_list": 1}),
    "groups_in_script": Scenario(workers=TWO_GROUPS, later=("v1",)),
    "again": Scenario(workers=TWO_GROUPS, ends="af", faults={"interrupt": 1, "tick": 1}),
    "trim_groups": Scenario(("a", "b"), workers=TWO_GROUPS, faults={"trim": 1}),
    "trim_pending": Scenario(("a", "b"), workers=TWO_GROUPS, faults={"trim": 1}),
    "group_at_0": Scenario(workers=TWO_GROUPS, later=("w1", "v1")),
    "publish_record": Scenario(("a", "b"), workers=ONE, faults={"lose": 1}),
    "derived_ids": Scenario(workers=ONE, children={"a": "b"}, faults={"kill": 1, "restart": 1}),
    "successors_first": Scenario(workers=ONE, children={"a": "b"}, faults={"kill": 1, "restart": 1}),
    "redis_clock": Scenario(workers=ONE, ends="af", faults={"tick": 1}),
}

OFTEN = {
    "tick": 8, "kill": 1, "kill_both": 1, "restart": 3, "pause": 2, "hog": 1, "cut": 1, "outage": 1, "lose": 2,
    "late_commit": 1, "late_keep": 1, "late_read": 1, "late_list": 1, "trim": 2, "stop": 2,
    "overrun": 1, "interrupt": 2, "requeue": 1, "purge": 1,
}  # fmt: skip

WALKS = (
    Scenario(("a", "b", "c"), {"w1": "g", "w2": "g", "v1": "h"}, ("v1",), "aff", {"a": "d"}, room=2, faults=OFTEN),
    Scenario(("a", "b"), {"w1": "g", "w2": "g", "w3": "g"}, (), "aff", room=2, faults=OFTEN | {"lose_leases": 1}),
    Scenario(("a", "b", "c"), {"w1": "g", "w2": "g"}, (), "aff", room=2, faults=OFTEN | {"flush": 1}),
    Scenario(("a", "b", "c"), killers=("a",), room=2, piece=2, faults={"tick": 8, "restart": 6, "lose": 1, "stop": 2}),
    Scenario(("a", "b", "c"), killers=("a",), together=True, room=2, piece=2, faults={"tick": 12, "restart": 6}),
)
"""Everything at once, for random walks."""
