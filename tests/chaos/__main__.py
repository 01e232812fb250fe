"""``python -m tests.chaos --minutes N --seed S``: a chaos run of any length, from the repository's folder."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests share the modules of this folder, as under pytest

LONG_MINUTES = 5.0
"""From this length on workers have the lease they have by default."""


def main() -> int:
    """Run; return 0 if nothing is wrong."""
    from chaos.run import run
    from chaos.system import Load

    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to disturb (default 1)")
    parser.add_argument("--seed", type=int, help="repeat the disturbances of an earlier run")
    parser.add_argument("--rate", type=float, default=700.0, help="calls a second on average (default 700)")
    parser.add_argument("--folder", type=Path, help="an empty folder for logs and data, kept; default a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict there too")
    parser.add_argument("--old-release", metavar="REV", help="let one pool run the Taskstream of this commit")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended, as after Ctrl-C
    load = Load(
        seconds=options.minutes * 60,
        seed=options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000),
        per_second=options.rate,
        lease_s=6.0 if options.minutes >= LONG_MINUTES else 3.0,
        old_release=options.old_release,
    )

    def shake(folder: Path) -> int:
        verdict = run(folder, load, lambda text: print(text, flush=True))
        print(verdict)
        if options.json is not None:
            options.json.write_text(json.dumps(verdict.as_json(), indent=1) + "\n")
        return 1 if verdict.problems else 0

    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        return shake(options.folder)
    with tempfile.TemporaryDirectory(prefix="taskstream-chaos-") as folder:
        return shake(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
