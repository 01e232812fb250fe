"""
Submit an urgent job
====================
The same for the stream whose jobs may not take long.
"""

from .submit import __api__, accept

__all__ = ["__api__", "accept"]
__steps__ = ["accept"]
