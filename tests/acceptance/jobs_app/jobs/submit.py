"""
Submit a job
============
Takes it as it is.
"""

from taskstream.app.api import event_api
from taskstream.app.context import EventContext

from .model import Job

__steps__ = ["accept"]
__api__ = event_api(payload=(Job, "what to do"), responses={200: (Job, "it will be done")})


async def accept(job: Job, context: EventContext) -> Job:
    """Answers the job."""
    if job.kind == "refuse":
        raise RuntimeError("internal-secret")
    return job
