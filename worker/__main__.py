"""``python -m taskstream_worker pool --options JSON``: a worker pool, as ``taskstream dev`` and ``run`` start it."""

from __future__ import annotations

import argparse
import sys

import msgspec

from .options import PoolOptions
from .supervisor import Supervisor


def main() -> int:
    """Parse the options and supervise until the end; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m taskstream_worker")
    commands = parser.add_subparsers(dest="command", required=True)
    pool = commands.add_parser("pool", help="run a worker pool")
    pool.add_argument("--options", required=True, help="PoolOptions as JSON")
    arguments = parser.parse_args()
    try:
        options = msgspec.json.decode(arguments.options, type=PoolOptions)
    except msgspec.DecodeError as error:
        parser.error(f"--options: {error}")
    return Supervisor(options).run()


if __name__ == "__main__":
    sys.exit(main())
