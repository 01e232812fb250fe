"""The OpenAPI 3 document of what a web server serves: event apps, an app of tasks, or both. Serves nothing itself."""

from __future__ import annotations

from typing import Any

from apispec import APISpec

from taskstream._version import __version__
from taskstream.app.core import Taskstream
from taskstream.events.loader import Loaded
from taskstream.openapi.events import add_events
from taskstream.openapi.schemas import PROBLEM, Schemas
from taskstream.openapi.tasks import add_tasks

OPENAPI = "3.0.3"


def document(loaded: Loaded | None, tasks_app: Taskstream | None = None) -> dict[str, Any]:
    """The OpenAPI document; the same for the same configuration and code.

    Raises ConfigError for a task whose annotations cannot be used.
    """
    schemas = Schemas()
    titles, described, version = [], [], __version__
    if loaded is not None:
        titles = [_title(app.name) for app in loaded.apps]
        described = [f"Events of {', '.join(f'{app.name} {app.version}' for app in loaded.apps)}"]
        version = loaded.apps[0].version
    if tasks_app is not None:
        titles.append(_title(tasks_app.name))
        described.append(f"Tasks of {tasks_app.name}")
    spec = APISpec(
        title=", ".join(dict.fromkeys(titles)),
        version=version,
        openapi_version=OPENAPI,
        info={"description": "; ".join(described)},
        plugins=[schemas],
    )
    spec.components.schema("Problem", PROBLEM)
    if loaded is not None:
        add_events(spec, schemas, loaded)
    if tasks_app is not None:
        add_tasks(spec, schemas, tasks_app)
    found: dict[str, Any] = spec.to_dict()
    return found


def _title(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").title()
