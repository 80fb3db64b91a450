"""`python -m lib`: the command line of lib/tools/cli.py."""

import sys

from lib.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
