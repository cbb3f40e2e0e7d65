"""`python -m selector` is the `autoexport` command."""

import sys

from selector.cli import main

if __name__ == "__main__":
    sys.exit(main())
