"""A STREAM event as the worker sees it: a handler and the subscription that feeds it."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from taskstream.app.context import EventContext, StreamInfo
from taskstream.config import EventConfig, StreamSettings
from taskstream.dataobjects import Validator, validator_for
from taskstream.errors import ConfigError, InvalidMessage, ValidationError
from taskstream.events.apps import EventApp
from taskstream.events.chain import Chain, RunAsync, Step, members
from taskstream.events.module import EventModule, Starter, check_type
from taskstream.events.request import message_of, own_json
from taskstream.handler import Handler, Settings, Subscription, Successor, no_successors
from taskstream.message import REPLAY_HEADER, Delivery, derived_id, handed_on

_TRACK = ("request_id", "operation_id", "request_ts")


class StreamEvent:
    """One STREAM event of an app."""

    def __init__(self, app: EventApp, config: EventConfig, module: EventModule, run_async: RunAsync) -> None:
        assert config.read_stream is not None
        self.app = app
        self.name = config.name
        self.label = app.label(config.name)
        self.stream, self.group = config.read_stream
        self.write_stream = config.write_stream
        # What is written to the stream that it came from takes the place of what it came from. With a limit it would
        # wait for room that only its own commit can make.
        self.max_length = None if self.write_stream == self.stream else config.max_length
        self.settings = config.settings
        self.module = module
        self._context = EventContext(app.name, app.version, config.name, app.env)
        self._chain = Chain(module.steps, run_async, config.settings.step_delay / 1000)
        self._validators: dict[str, Validator] = {}
        first = _payload_types(module.steps[0])
        for member in first:
            check_type(module.where, member)
            self._validators[_type_name(member)] = validator_for(member)
        # A later step may take what the first one does not, and also what only ever passes between steps.
        for step in module.steps[1:]:
            for member in _payload_types(step):
                with contextlib.suppress(ConfigError):
                    self._validators.setdefault(_type_name(member), validator_for(member))
        self._only = validator_for(first[0]) if len(first) == 1 else None
        self._handler = Handler(
            name=f"{app.name}.{config.name}",
            run=self.run,
            app=app.name,
            version=app.version,
            log_done_at=logging.INFO,
            settings=_settings(config.settings),
            dump=lambda value: own_json(self.label, value),
            start=Starter(module.init, self._context, run_async),
            successors=self.successors if config.write_stream else no_successors,
        )

    def subscription(self, auto_start: bool) -> Subscription:
        """What feeds this event."""
        settings = self.settings
        return Subscription(
            label=self.label,
            stream=self.stream,
            group=self.group,
            handlers={},
            default=self._handler,
            concurrency=settings.concurrency,
            batch_size=settings.batch_size,
            throttle=settings.throttle_ms / 1000,
            delay_auto_start=settings.delay_auto_start,
            auto_start=auto_start,
            retention=settings.retention,
        )

    def run(self, delivery: Delivery) -> Any:
        """Handle one message: what the chain returns, None where it ended early.

        Raises InvalidMessage for a payload that does not fit, which no retry would change.
        """
        message = delivery.message
        validator = self._validators.get(message.name) or self._only
        if validator is None:
            known = ", ".join(self._validators)
            raise InvalidMessage(f"{self.label} takes {known}, not a {message.name!r}")
        try:
            value = validator.load_json(message.body)
        except ValidationError as error:
            raise InvalidMessage(f"{self.label}: {error}") from None
        headers = message.headers
        track = {name: headers[name] for name in _TRACK if name in headers} if headers else {}
        info = StreamInfo(delivery.stream, delivery.group, message.id, message.attempt)
        return self._chain.run(value, self._context.follow(track, info))

    def successors(self, delivery: Delivery, value: object) -> tuple[Successor, ...]:
        """The message for the next stage. Its id is derived, so that a repeated run publishes it once.

        A replay is to publish it anew.
        """
        if value is None:
            return ()
        assert self.write_stream is not None
        parent = delivery.message
        step = f"{self.label}:{delivery.group}"
        if parent.headers and REPLAY_HEADER in parent.headers:
            step = f"{step}:{parent.headers[REPLAY_HEADER]}"
        message_id = derived_id(parent.id, step)
        message = message_of(self.label, value, handed_on(parent.headers), message_id)
        return (Successor(self.write_stream, message, self.max_length),)


def _payload_types(step: Step) -> list[Any]:
    return [member for member in members(step.function.first) if member is not type(None)]


def _type_name(member: Any) -> str:
    return member.__name__ if isinstance(member, type) else getattr(member, "__name__", str(member))


def _settings(found: StreamSettings) -> Settings:
    """The worker's settings: the file's where it says something, the worker's own defaults elsewhere."""
    names = ("timeout", "hard_timeout", "max_retries", "max_deliveries", "retry_backoff")
    return Settings(**{name: value for name in names if (value := getattr(found, name)) is not None})
