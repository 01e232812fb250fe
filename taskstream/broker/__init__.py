"""Everything that sends stream commands: publishing, one consumer group's side, and looking at them."""

from __future__ import annotations

from taskstream.broker.broker import Broker, GroupState, SubscriptionInfo
from taskstream.broker.publisher import Envelope

__all__ = ["Broker", "Envelope", "GroupState", "SubscriptionInfo"]
