"""
Print a label
=============
Stage two: writes the label of a sorted parcel as a file, which a label printer's spooler would pick up.
"""

from datetime import UTC, datetime

from taskstream.app.context import EventContext
from taskstream.app.logger import app_extra_logger
from taskstream.toolkit.storage.fs import FileStorage

from .model import Label, SortedParcel

logger, extra = app_extra_logger()

__steps__ = ["make_label", "save"]

labels: FileStorage | None = None


def __init_event__(context: EventContext) -> None:
    """Opens the folder of labels, once per process."""
    global labels
    if labels is None:
        labels = FileStorage(path=context.env["labels"]["folder"])


def make_label(parcel: SortedParcel, context: EventContext) -> Label:
    """The text of the label."""
    lines = [parcel.parcel, f"lane {parcel.lane}", f"accepted {parcel.accepted_at:%Y-%m-%d %H:%M}"]
    return Label(parcel.parcel, lines, datetime.now(UTC))


async def save(label: Label, context: EventContext) -> str:
    """Saves under the parcel's number: should the message be handled twice, there is still one label."""
    assert labels is not None
    path = await labels.store(key=label.parcel, value=label)
    logger.info(context, "Label saved", extra=extra(path=path))
    return path
