"""What came of a chaos run: problems, and figures for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .measures import Summary, Takeover

SHOWN = 20
TAKEOVER_S = 10.0
BACK_S = 2.0


@dataclass
class Verdict:
    """``problems`` is empty if all is well."""

    seed: int
    seconds: float
    """How long it was disturbed."""
    took_s: float
    """From the first message to rest."""
    calls: dict[str, int]
    """By verdict: accepted, refused, unsure."""
    kinds: dict[str, int]
    """Accepted calls by kind."""
    done: int
    dead: dict[str, int]
    """Dead letters by the error's type."""
    condemned: int
    """Dead letters for the deaths of their workers that were no poison."""
    runs: int
    repeats: dict[str, int]
    """Further runs by their reason."""
    after_sigterm: int
    finished_and_repeated: int
    """At most, in one killed process: runs that had ended, were not committed yet and ran again."""
    kills: int
    takeover: Summary
    back: Summary
    disturbances: dict[str, int]
    memory: dict[str, Any]
    skipped: list[str] = field(default_factory=list)
    slow_takeovers: list[Takeover] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Calls that were accepted, second stages not counted."""
        return self.calls.get("accepted", 0)

    @property
    def lost(self) -> int:
        """Accepted calls, second stages too, that have no good end."""
        return sum(self.kinds.values()) - self.done - sum(self.dead.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        fields = {name: value for name, value in vars(self).items() if name not in ("takeover", "back")}
        summaries = {"takeover": self.takeover._asdict(), "back": self.back._asdict()}
        slow = [takeover._asdict() for takeover in self.slow_takeovers]
        return {**fields, **summaries, "slow_takeovers": slow, "accepted": self.accepted, "lost": self.lost}

    def __str__(self) -> str:
        rate = self.accepted / max(self.took_s, 1.0)
        most = f"{self.finished_and_repeated} in one of {self.kills} processes"
        lines = [
            f"seed {self.seed}: disturbed for {self.seconds:.0f} s, at rest after {self.took_s:.0f} s",
            f"calls       {listed(self.calls)}; {rate:.0f} accepted/s",
            f"kinds       {listed(self.kinds)}",
            f"ends        {self.done} done, {self.lost} lost, dead: {listed(self.dead)}, {self.condemned} innocent",
            f"runs        {self.runs}; repeats by reason: {listed(self.repeats)}",
            f"repeats     after SIGTERM {self.after_sigterm}; ended and not yet committed at a SIGKILL: at most {most}",
            f"takeover    {self.takeover}",
            f"broker back {self.back}",
            f"disturbed   {sum(self.disturbances.values())} times: {listed(self.disturbances)}",
            *(f"memory      {name}: {value}" for name, value in self.memory.items()),
            *(f"skipped     {text}" for text in self.skipped),
            f"{len(self.problems)} problems",
            *self.problems[:SHOWN],
        ]
        return "\n".join(lines)


def listed(counts: dict[str, int]) -> str:
    """``name count, …``, the largest first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1])) or "none"
