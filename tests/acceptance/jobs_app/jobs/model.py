"""What travels."""

from taskstream.dataobjects import dataobject


@dataobject
class Job:
    """``kind``: quick; sleep (for ``seconds``); fail (the first ``failures`` runs); refuse (by the POST's handler)."""

    job: str
    kind: str = "quick"
    seconds: float = 0.0
    failures: int = 0
