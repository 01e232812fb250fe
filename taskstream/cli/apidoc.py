"""OpenAPI documents as values: of the code, of a file, and what differs between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from taskstream.cli.target import Target
from taskstream.errors import ConfigError

if TYPE_CHECKING:
    from taskstream.events import Loaded

REMEDY = "make it anew with `taskstream openapi create`"
MISSING = object()


def load(target: Target) -> Loaded:
    """Load the configured events' modules. Raises ConfigError."""
    from taskstream import events

    return events.load(target.config_files or "", asyncio.run)


def document_of(loaded: Loaded) -> dict[str, Any]:
    """The OpenAPI document of loaded events. Raises ConfigError."""
    from taskstream.openapi import document

    return document(loaded)


def document_for(target: Target) -> dict[str, Any]:
    """The OpenAPI document of an app's tasks or of configured events, whose code is loaded. Raises ConfigError."""
    if target.app is None:
        return document_of(load(target))
    from taskstream.app.loading import load_app
    from taskstream.openapi import document

    return document(None, load_app(target.app))


def dump(document: dict[str, Any]) -> bytes:
    """As it stands in a file: indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read(path: Path) -> dict[str, Any]:
    """The document in a file. Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        option = "" if path.name == str(path) == "openapi.json" else f" --output-file {path}"
        raise ConfigError(f"there is no {path}: write it with `taskstream openapi create{option}`") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {REMEDY}") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no OpenAPI document ({error}); {REMEDY}") from None


def differences(on_file: dict[str, Any], of_code: dict[str, Any]) -> list[str]:
    """One line for each place where the two differ, by its path in the document; empty if they agree."""
    # Through JSON, so that tuples and the like count as what a file can hold.
    return list(_differences("", on_file, msgspec.json.decode(msgspec.json.encode(of_code))))


def _differences(path: str, on_file: Any, of_code: Any) -> Iterator[str]:
    if isinstance(on_file, dict) and isinstance(of_code, dict):
        for key in sorted(on_file.keys() | of_code.keys()):
            # The JSON Pointer of RFC 6901, which may be pasted elsewhere.
            inner = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            yield from _differences(inner, on_file.get(key, MISSING), of_code.get(key, MISSING))
    elif on_file is MISSING:
        yield f"{path}: only in the code"
    elif of_code is MISSING:
        yield f"{path}: only in the file"
    elif on_file != of_code:
        yield f"{path}: {_short(on_file)} in the file, {_short(of_code)} in the code"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}…"
