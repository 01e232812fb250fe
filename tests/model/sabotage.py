"""How to take a rule out of a script: which script, what of its text, and what to put there."""

from __future__ import annotations

import hashlib

from taskstream.broker.script import Script

SABOTAGE: dict[str, tuple[str, str, str]] = {
    "fence": ("commit", "if not score or tonumber(score) < 2 or tonumber(score) % 1 ~= 0 then", "if false then"),
    "ack_decides": (
        "commit",
        "if redis.call('XACK', KEYS[source], group, entry) == 1 then",
        "if redis.call('XACK', KEYS[source], group, entry) >= 0 then",
    ),
    "atomic_move": ("commit", "redis.call('ZADD', KEYS[4], due, ARGV[at + 5])", ""),
    "groups_in_script": ("commit", "#groups == 1 and groups[1][2] == group", "#groups >= 1"),
    "again": ("commit", "redis.call('XADD', KEYS[2]", "redis.call('XADD', KEYS[1]"),
    "mark": ("claim", "redis.call('ZADD', KEYS[3], 'XX', score, victim)", ""),
    "claim_checks": ("claim", "or (score >= 2 and (score > now or score ~= tonumber(ARGV[5])))", ""),
    "own_lease": ("claim", "if not own or tonumber(own) <= now or tonumber(own) % 1 ~= 0 then", "if false then"),
    "last_out": ("claim", "if room == 0 or suspect then", "if suspect then"),
    "one_suspect": ("claim", "suspect = why == '' and deaths >= tonumber(ARGV[7])", ""),
    "grace": ("sweep", "redis.call('ZADD', KEYS[3], 'NX', now + ARGV[2] + 0.5, consumer[2])", ""),
    "grace_is_nobodys": ("sweep", "now + ARGV[2] + 0.5", "now + ARGV[2]"),
    "release_untaken": ("release", "tonumber(score) < 2 or", ""),
    "overrun": ("release", "if ARGV[i + 1] == '' then", "if true then"),
    "absolve": ("absolve", "redis.call('HDEL', KEYS[4], id)", ""),
    "trim_groups": ("trim", "for _, group in ipairs(groups) do", "for _, group in ipairs({groups[1]}) do"),
    "trim_pending": ("trim", "if group[6] > 0 then", "if false then"),
    "group_at_0": ("register", "'0', 'MKSTREAM'", "'$', 'MKSTREAM'"),
    "publish_record": ("publish", "for _, name in ipairs(missing) do", "for _, name in ipairs({}) do"),
    "redis_clock": ("promote", "'-inf', now,", "'-inf', '+inf',"),
}


def sabotaged(rule: str) -> Script:
    """The script without the rule."""
    name, text, instead = SABOTAGE[rule]
    script = Script(name)
    assert script.source.count(text) == 1, f"{name}.lua has changed: {text!r} is not in it once"
    script.source = script.source.replace(text, instead)
    script.sha = hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
    return script
