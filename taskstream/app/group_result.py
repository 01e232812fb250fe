"""The handle of several messages that were sent together: their values in order, or the failure of one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from taskstream.app.result import AsyncResult, check_timeout, value_or_failure
from taskstream.broker.states import PENDING
from taskstream.errors import ResultTimeout
from taskstream.results.base import FINAL_STATES, SUCCESS


class GroupResult:
    """Handle of a group. ``results`` are its members' handles in order; of a group among them a GroupResult.

    ``id`` is what its messages call it. ``parent`` is the handle of what came before it.
    """

    __slots__ = ("id", "parent", "results")

    def __init__(self, group_id: str, results: Sequence[AsyncResult[Any] | GroupResult]) -> None:
        self.id = group_id
        self.results = list(results)
        self.parent: AsyncResult[Any] | GroupResult | None = None

    def get(self, timeout: float | None = None) -> list[Any]:
        """Wait for all members and return their values in order; of a group among them a list.

        ``timeout`` in seconds for all of them; None waits for ever. Raises as ``AsyncResult.get`` does, a failure as
        soon as one member has failed, whatever becomes of the others.
        """
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        leaves = list(self._leaves())
        values: dict[str, Any] = {}
        if leaves:
            queues = sorted({queue for leaf in leaves for queue in leaf.queues})
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            source = leaves[0].source
            finished = source.outcomes.finished([leaf.id for leaf in leaves], queues, left)
            with contextlib.closing(finished):
                for outcome in finished:
                    values[outcome.id] = value_or_failure(source, outcome)
        missing = sum(leaf.id not in values for leaf in leaves)
        if missing:
            raise ResultTimeout(f"{missing} of {len(leaves)} members of group {self.id} have no outcome in {timeout} s")
        return self._ordered(values)

    def ready(self) -> bool:
        """Whether every member has a final outcome. Raises ResultUnavailable as ``AsyncResult.ready`` does."""
        return all(state in FINAL_STATES for state in self._states())

    def successful(self) -> bool:
        """Whether every member has succeeded."""
        return all(state == SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Whether a member has failed, or was revoked."""
        return any(state in FINAL_STATES and state != SUCCESS for state in self._states())

    def completed_count(self) -> int:
        """How many messages of the group have succeeded, those of groups in it among them."""
        return sum(state == SUCCESS for state in self._states())

    def revoke(self, terminate: bool = False) -> None:
        """Have no member run any more, with ``terminate`` nor go on running. Raises BrokerUnavailable."""
        leaves = list(self._leaves())
        if leaves:
            leaves[0].source.revoke(leaves, terminate=terminate)

    def __iter__(self) -> Iterator[AsyncResult[Any] | GroupResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> AsyncResult[Any] | GroupResult:
        return self.results[index]

    def __repr__(self) -> str:
        return f"<GroupResult {self.id}: {len(self.results)} members>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        for result in self.results:
            if isinstance(result, GroupResult):
                yield from result._leaves()
            else:
                yield result

    def _states(self) -> Iterator[str]:
        return (leaf.final_state() or PENDING for leaf in self._leaves())

    def _ordered(self, values: dict[str, Any]) -> list[Any]:
        return [
            result._ordered(values) if isinstance(result, GroupResult) else values[result.id] for result in self.results
        ]
