"""What travels: a scan as the gate sends it, and a parcel that knows its lane."""

from datetime import UTC, datetime
from enum import Enum

from taskstream.dataobjects import dataobject


class Size(Enum):
    """Which belt a parcel fits on."""

    SMALL = "SMALL"
    LARGE = "LARGE"
    BULKY = "BULKY"


@dataobject
class Scan:
    """One reading of the scanner at the gate."""

    parcel: str
    postcode: str
    weight_kg: float
    note: str | None = None


@dataobject
class AcceptedScan:
    """A scan that the gate answered for, with the time it did."""

    parcel: str
    postcode: str
    weight_kg: float
    note: str | None
    accepted_at: datetime

    @classmethod
    def of(cls, scan: Scan) -> "AcceptedScan":
        """``scan`` as it is now."""
        return cls(scan.parcel, scan.postcode, scan.weight_kg, scan.note, datetime.now(UTC))


@dataobject
class SortedParcel:
    """A parcel and where it goes."""

    parcel: str
    lane: str
    size: Size
    accepted_at: datetime


@dataobject
class Label:
    """What is printed on the parcel."""

    parcel: str
    lines: list[str]
    printed_at: datetime
