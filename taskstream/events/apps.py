"""What all events of one app share: its names and its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskstream.app.context import package_of, path_version
from taskstream.config import EventConfig


@dataclass(frozen=True, slots=True)
class EventApp:
    """One event app. ``base`` is the folder of its configuration file."""

    name: str
    version: str
    env: Mapping[str, Any]
    events: Mapping[str, EventConfig]
    base: Path

    @property
    def path_version(self) -> str:
        """``1x0``."""
        return path_version(self.version)

    @property
    def package(self) -> str:
        """``my_streaming_app``."""
        return package_of(self.name)

    @property
    def key(self) -> str:
        """``my_streaming_app.1x0``."""
        return f"{self.package}.{self.path_version}"

    def label(self, event: str) -> str:
        """What people and the control channel call an event: ``my-streaming-app.1x0.send-message``."""
        return f"{self.name}.{self.path_version}.{event}"
