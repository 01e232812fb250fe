"""Event apps: a configuration and handler modules, turned into request events and subscriptions.

Knows neither the web framework nor the worker; both call what is exported here.
"""

from taskstream.events.apps import EventApp
from taskstream.events.loader import Loaded, load
from taskstream.events.request import EventRequest, EventResponse, RequestEvent
from taskstream.events.stream import StreamEvent

__all__ = ["EventApp", "EventRequest", "EventResponse", "Loaded", "RequestEvent", "StreamEvent", "load"]
