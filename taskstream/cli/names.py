"""Which stream and group a name on the command line means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskstream.cli.facts import subscriptions_said_by
from taskstream.cli.target import Target
from taskstream.control import Control
from taskstream.errors import ConfigError

if TYPE_CHECKING:
    from taskstream.broker import Broker


def resolve(broker: Broker, name: str, target: Target | None) -> tuple[str, str, str]:
    """Label, stream and group of an event or queue.

    By what workers registered, else also by the code, which costs loading it. Raises ConfigError, BrokerUnavailable.
    """
    channel = Control(broker)
    try:
        return channel.resolve(name)
    except ConfigError:
        if target is None:
            raise
        known = subscriptions_said_by(target)
        return channel.resolve(name, {one.label: (one.stream, one.group) for one in known})
