"""`python -m lesionforge VERB ...`, for where the command is not on the path."""

import sys

from lesionforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
