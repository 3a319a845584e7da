"""``python -m dspex_worker``."""

import sys

from dspex_worker.command import main

if __name__ == "__main__":
    sys.exit(main())
