"""Result stores: what became of each message, kept outside Redis by default."""

from taskstream.results.base import (
    FAILURE,
    FINAL_STATES,
    RETRY,
    REVOKED,
    SUCCESS,
    Failure,
    Outcome,
    ResultStore,
)
from taskstream.results.errors import ResultStoreError
from taskstream.results.store import open_store

__all__ = [
    "FAILURE",
    "FINAL_STATES",
    "RETRY",
    "REVOKED",
    "SUCCESS",
    "Failure",
    "Outcome",
    "ResultStore",
    "ResultStoreError",
    "open_store",
]
