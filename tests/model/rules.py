"""The rules of the protocol, each of which can be taken away, and what is broken without it."""

from __future__ import annotations

LOST = "an accepted message is nowhere"
TWICE = "a message is in two places of one group"
VISIBLE = "what one group put back is in sight of every group"
REMOVED = "an entry went before all groups were done with it"
STOLEN = "a live worker lost what it held"
FENCED = "a worker ended a message that it does not hold"
STARTED = "a worker started a message that it does not hold"
RERUN = "one delivery was started twice, or one whose run was ended on purpose"
OUTCOME = "the outcome that is kept is not the winner's"
UNBOUGHT = "a claim by a worker whose own lease does not hold"
BLAMED = "a death was counted for a message that no process died with"
POISON = "a message at its last death was started again"
INNOCENT = "a message that kills nobody was buried as poison"
EARLY = "a delayed message was readable before its time"
CHILDREN = "a finished message has not exactly one successor"
STUCK = "not everything comes to rest"

RULES: dict[str, tuple[str, str]] = {
    "fence": ("a commit looks at its consumer's lease first", FENCED),
    "mark": ("the first claim marks the lease as taken", STARTED),
    "ack_decides": ("the second half of a move happens only if its XACK answers 1", TWICE),
    "atomic_move": ("acknowledgement and second half of a move are one script", LOST),
    "observation": ("who takes over has itself seen the lease unrenewed for a full lease", STOLEN),
    "unbroken": ("an observation ends with the connection it was made over", STOLEN),
    "claim_checks": ("a claim checks that the lease is still the expired one that was observed", STOLEN),
    "own_lease": ("a claim checks the lease of who claims", UNBOUGHT),
    "new_names": ("a worker that lost its lease goes on under a name never used before", FENCED),
    "register_first": ("a consumer has its lease before it reads", STOLEN),
    "supervisor_renews": ("the supervisor renews for a live process whose thread cannot", STOLEN),
    "deadline": ("past its own deadline a worker starts nothing new", STARTED),
    "grace": ("a consumer without a lease is given one of grace", STUCK),
    "grace_is_nobodys": ("a lease of grace is not the consumer's own: it can neither renew nor commit by it", STARTED),
    "last_out": ("lease and consumer are removed only when nothing is pending any more", LOST),
    "release_untaken": ("a supervisor gives up only a lease that nobody took", BLAMED),
    "release_started": ("a supervisor counts a death only for what had started", BLAMED),
    "overrun": ("a process that is killed for a hard_timeout is no death", BLAMED),
    "poison": ("a message at its last death is buried without being run", POISON),
    "alone": ("a message one death short of the limit runs alone in its process", INNOCENT),
    "one_suspect": ("what runs alone is also taken over alone", INNOCENT),
    "deaths_travel": ("what is put back takes along how many died of it", INNOCENT),
    "absolve": ("a process that comes back after its lease was lost takes back the deaths it counted for", INNOCENT),
    "outcome_first": ("the outcome is kept before the commit", OUTCOME),
    "delivery_number": ("the store replaces an outcome only by one of an equal or later delivery", OUTCOME),
    "reconcile": ("a reader compares what the server holds for it with what it knows of", STUCK),
    "in_flight": ("of that comparison, what is in flight here is left alone", RERUN),
    "look_again": ("of that comparison, what is no longer pending is left alone", STARTED),
    "groups_in_script": ("the commit itself sees that the group is the only one before it deletes", REMOVED),
    "again": ("retries and give-backs go to a stream of the group's own", VISIBLE),
    "trim_groups": ("a trim stops at the oldest entry that any group needs, not just this one", REMOVED),
    "trim_pending": ("a trim stops at pending entries, not just at unread ones", REMOVED),
    "group_at_0": ("a group is made at 0", LOST),
    "publish_record": ("publishing under a key records the key in the same script", TWICE),
    "derived_ids": ("a successor's id is derived from its parent's", CHILDREN),
    "successors_first": ("successors are published before the parent's commit", CHILDREN),
    "redis_clock": ("delays are measured by Redis' clock", EARLY),
}
"""Name -> (the rule, what the search finds broken without it)."""

ALL = frozenset(RULES)
