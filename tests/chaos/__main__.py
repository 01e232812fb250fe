"""``python -m tests.chaos --seconds N --seed S``: a chaos run of any length, from the repository's folder."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests share the modules of this folder, as under pytest


def main() -> int:
    """Run; return 0 if nothing is wrong."""
    from chaos.run import run

    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to disturb (default 60)")
    parser.add_argument("--seed", type=int, help="repeat the disturbances of an earlier run")
    parser.add_argument("--folder", type=Path, help="an empty folder for logs and data, kept; default a temporary one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended, as after Ctrl-C
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)

    def shake(folder: Path) -> int:
        verdict = run(folder, options.seconds, seed, lambda text: print(text, flush=True))
        print(verdict)
        return 1 if verdict.problems else 0

    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        return shake(options.folder)
    with tempfile.TemporaryDirectory(prefix="taskstream-chaos-") as folder:
        return shake(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
