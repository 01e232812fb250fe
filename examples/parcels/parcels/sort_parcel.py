"""
Sort a parcel
=============
Stage one: finds the lane and the belt of a scanned parcel. What it returns is published for the next stage.
"""

from taskstream.app.context import EventContext
from taskstream.app.logger import app_extra_logger

from .model import AcceptedScan, Size, SortedParcel

logger, extra = app_extra_logger()

__steps__ = ["sort"]

BELTS = {Size.SMALL: 2.0, Size.LARGE: 10.0, Size.BULKY: float("inf")}


def sort(scan: AcceptedScan, context: EventContext) -> SortedParcel:
    """The lane is the region, which is what a postcode starts with."""
    size = next(size for size, most_kg in BELTS.items() if scan.weight_kg <= most_kg)
    lane = f"{scan.postcode[:2]}-{size.value[0]}"
    logger.info(context, "Sorted", extra=extra(parcel=scan.parcel, lane=lane))
    return SortedParcel(scan.parcel, lane, size, scan.accepted_at)
