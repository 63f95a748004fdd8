"""`python -m lesionforge VERB ...`, the form that torchrun starts."""

import sys

from lesionforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
