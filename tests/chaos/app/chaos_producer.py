"""A producer of the chaos run: ``chaos_producer.py NAME FIRST STEP SEED PER_SECOND``; sends until SIGTERM.

Writes ``NAME.log``: ``accepted NUMBER KIND ID``, or ``refused NUMBER`` (certainly not sent), or ``unsure NUMBER``.
"""

import random
import signal
import sys
import time
from pathlib import Path

from chaos_tasks import work

from taskstream import BrokerUnavailable

KINDS = {"quick": 80, "sleep": 14, "flaky": 4, "hopeless": 2}
POISON_EVERY = 400
"""One call in so many kills the process it runs in, the twentieth first."""


def main(name: str, first: int, step: int, seed: int, per_second: float) -> None:
    """Send until told to stop."""
    running = [True]
    signal.signal(signal.SIGTERM, lambda number, frame: running.clear())
    rng = random.Random(seed)
    number = first
    with Path(__file__).with_name(f"{name}.log").open("a", buffering=1) as log:
        while running:
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            if number % POISON_EVERY == 20:
                kind = "poison"
            try:
                result = work.delay(number, kind, round(rng.uniform(0.05, 1.0), 3))
                log.write(f"accepted {number} {kind} {result.id}\n")
            except BrokerUnavailable as error:
                log.write(f"{'unsure' if error.maybe_sent else 'refused'} {number}\n")
            number += step
            time.sleep(rng.expovariate(per_second))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
