"""``python3 -m samba_rvss``: the command line from a checkout."""

import sys

from samba_rvss.cli import main

if __name__ == "__main__":
    sys.exit(main())
