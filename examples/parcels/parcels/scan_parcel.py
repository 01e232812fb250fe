"""
Scan a parcel
=============
Takes a reading of the scanner at the gate and hands it to sorting.
"""

import re

from taskstream.app.api import event_api
from taskstream.app.context import EventContext, PostprocessHook
from taskstream.app.logger import app_extra_logger

from .model import AcceptedScan, Scan

logger, extra = app_extra_logger()

__steps__ = ["check", "accept"]

__api__ = event_api(
    payload=(Scan, "what the scanner read"),
    responses={202: (AcceptedScan, "the parcel is on its way to sorting"), 422: (str, "why the gate refuses it")},
)

PARCEL_NUMBER = re.compile(r"[A-Z]{2}-[0-9]{4,12}")


def check(scan: Scan, context: EventContext) -> Scan | None:
    """Refuses what no belt can take; None means that nothing is published."""
    limit = context.env["limits"]["max_weight_kg"]
    if not PARCEL_NUMBER.fullmatch(scan.parcel) or not 0 < scan.weight_kg <= limit:
        logger.warning(context, "Parcel refused", extra=extra(parcel=scan.parcel, weight_kg=scan.weight_kg))
        return None
    return scan


def accept(scan: Scan, context: EventContext) -> AcceptedScan:
    """Stamps the scan; what this returns goes to the stream."""
    return AcceptedScan.of(scan)


def __postprocess__(scan: AcceptedScan | None, context: EventContext, response: PostprocessHook) -> AcceptedScan | str:
    """Says 202: accepted, but not sorted yet."""
    if scan is None:
        response.status = 422
        limit = context.env["limits"]["max_weight_kg"]
        return f"needs a number such as PX-1042 and a weight above 0 and up to {limit} kg"
    response.status = 202
    return scan
