"""``python -m taskstream.cli`` is the command ``taskstream``."""

import sys

from taskstream.cli.main import main

sys.exit(main())
