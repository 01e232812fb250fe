"""
What the two events exchange
"""
from enum import Enum

from taskstream.dataobjects import dataobject


@dataobject
class MyData:
    text: str


class Status(Enum):
    NEW = 'NEW'
    VALID = 'VALID'
    PROCESSED = 'PROCESSED'


@dataobject
class MyMessage:
    text: str
    status: Status
