"""
Work on what is urgent
======================
The same work with a time limit.
"""

from .work import run

__all__ = ["run"]
__steps__ = ["run"]
