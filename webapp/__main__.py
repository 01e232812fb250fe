"""``python -m taskstream_webapp --options JSON``: the production server as a child process of dev and run."""

from __future__ import annotations

import argparse
import sys

import msgspec

from taskstream.errors import ConfigError

from .server import ServeOptions, serve


def main() -> int:
    """Serve with the options given as JSON; 2 for what cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m taskstream_webapp")
    parser.add_argument("--options", default="{}", help="the fields of ServeOptions as one JSON object")
    try:
        options = msgspec.json.decode(parser.parse_args().options, type=ServeOptions)
        return serve(options)
    except msgspec.DecodeError as error:
        print(f"taskstream web: --options cannot be read: {error}", file=sys.stderr)
    except ConfigError as error:
        print(f"taskstream web: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
