"""Obeys the control channel: hears commands, answers each with this worker's name.

Choices are durable state in Redis; what is heard here is only a hint to look, so a message lost by pub/sub
loses nothing. A command is one small function in COMMANDS.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import msgspec
import redis

from taskstream import keys
from taskstream.broker import Broker
from taskstream.errors import TaskstreamError
from taskstream.logs import FieldLogger

from .backoff import RECONNECT_MOST_S, Backoff
from .clock import boottime
from .consumer import Consumer
from .forwarder import Forwarder
from .stats import Reporter

REPLY_TTL_S = 60
MAX_REPLIES = 10_000
POLL_S = 5.0
SILENCE_S = 30.0
"""A connection without even an answer to its pings for this long is given up."""

GIVE_BACK_S = 2.0


class ControlListener:
    """Listens for this process."""

    def __init__(
        self,
        broker: Broker,
        worker: str,
        consumers: Sequence[Consumer],
        reporter: Reporter,
        forwarder: Forwarder,
        log: FieldLogger,
    ) -> None:
        self.consumers = consumers
        self.forwarder = forwarder
        self.reporter = reporter
        self.worker = worker
        self._broker = broker
        self._log = log

    def start(self) -> None:
        """Start the greenlet; it ends with the process."""
        gevent.spawn(self._run)

    def _run(self) -> None:
        backoff = Backoff(0.1, RECONNECT_MOST_S)
        while True:
            pubsub = self._broker.client.pubsub()
            try:
                pubsub.subscribe(keys.CONTROL_CHANNEL)
                self._listen(pubsub, backoff)
            except (redis.RedisError, OSError, TaskstreamError) as error:
                self._log.debug("Control channel lost, trying on", {"error": error})
            finally:
                with contextlib.suppress(redis.RedisError, OSError):
                    pubsub.close()
            gevent.sleep(backoff.next())

    def _listen(self, pubsub: redis.client.PubSub, backoff: Backoff) -> None:
        heard = boottime()
        while boottime() - heard < SILENCE_S:
            message: Any = pubsub.get_message(timeout=POLL_S)
            if message is None:
                pubsub.ping()
                continue
            heard = boottime()
            backoff.reset()
            if message["type"] == "subscribe":
                # Subscribed first, read after: a choice made in between is heard or seen.
                for consumer in self.consumers:
                    consumer.refresh()
            elif message["type"] == "message":
                gevent.spawn(self._handle, message["data"])

    def _handle(self, data: bytes) -> None:
        try:
            request = msgspec.json.decode(data, type=Request)
        except msgspec.DecodeError as error:
            self._log.warning("Unreadable control request", {"error": error})
            return
        if request.worker is not None and not fnmatch.fnmatchcase(self.worker, request.worker):
            return
        command = COMMANDS.get(request.command)
        reply: dict[str, Any] = {"worker": self.worker, "ok": True, "error": None, "result": None}
        try:
            if command is None:
                raise LookupError(f"this worker knows no command {request.command!r}")
            reply["result"] = command(self, request.args)
            if reply["result"] is None:
                return  # not meant for this worker
            if not request.id:
                return  # a hint
        except Exception as error:
            reply |= {"ok": False, "error": str(error) or type(error).__name__}
            self._log.warning("Control request failed", {"command": request.command, "error": error})
        key = keys.reply(request.id)
        try:
            with self._broker.errors():
                pipeline = self._broker.client.pipeline(transaction=True)
                pipeline.rpush(key, msgspec.json.encode(reply))
                pipeline.ltrim(key, -MAX_REPLIES, -1)
                pipeline.expire(key, REPLY_TTL_S)
                pipeline.execute()
        except TaskstreamError as error:
            self._log.warning("Control request cannot be answered", {"command": request.command, "error": error})


class Request(msgspec.Struct):
    """A command as it comes over the channel; ``worker`` is a pattern of names, None for all."""

    id: str
    command: str
    args: dict[str, Any] = {}
    worker: str | None = None


def ping(listener: ControlListener, args: dict[str, Any]) -> dict[str, Any]:
    """Alive."""
    return {"pong": True}


def stats(listener: ControlListener, args: dict[str, Any]) -> dict[str, Any]:
    """What this worker has done and what it consumes."""
    return listener.reporter.info()


def sync(listener: ControlListener, args: dict[str, Any]) -> dict[str, Any] | None:
    """Obey the choice for one group now; answers once the reader does and what had not started is given back."""
    for consumer in listener.consumers:
        subscription = consumer.subscription
        if (subscription.stream, subscription.group) != (args.get("stream"), args.get("group")):
            continue
        consumer.refresh()
        deadline = boottime() + GIVE_BACK_S
        while consumer.state == "stopped" and not consumer.acker.idle and boottime() < deadline:
            gevent.sleep(0.01)
        listener.reporter.announce()
        return {"label": subscription.label, "state": consumer.state}
    return None


def wake(listener: ControlListener, args: dict[str, Any]) -> None:
    """A message waits in a group by its priority, which no reader sees that waits on the server. Nobody is answered."""
    for consumer in listener.consumers:
        subscription = consumer.subscription
        if (subscription.stream, subscription.group) == (args.get("stream"), args.get("group")):
            consumer.wake()


def soon(listener: ControlListener, args: dict[str, Any]) -> None:
    """Something of a group is delayed by less than the forwarder may rest. Nobody is answered."""
    for consumer in listener.consumers:
        subscription = consumer.subscription
        if (subscription.stream, subscription.group) == (args.get("stream"), args.get("group")):
            # It asks the server when that is: nobody's clock but Redis' decides.
            listener.forwarder.expect(0)


def revoke(listener: ControlListener, args: dict[str, Any]) -> dict[str, Any] | None:
    """Messages of one group are not to run any more; answers when this worker knows."""
    for consumer in listener.consumers:
        subscription = consumer.subscription
        if (subscription.stream, subscription.group) != (args.get("stream"), args.get("group")):
            continue
        ids = [one for one in args["ids"] if isinstance(one, str)]
        consumer.revocations.hear(int(args["number"]), ids, bool(args.get("terminate")))
        return {"label": subscription.label, "revoked": len(consumer.revoked)}
    return None


COMMANDS: dict[str, Callable[[ControlListener, dict[str, Any]], dict[str, Any] | None]] = {
    "ping": ping,
    "stats": stats,
    "sync": sync,
    "soon": soon,
    "wake": wake,
    "revoke": revoke,
}
