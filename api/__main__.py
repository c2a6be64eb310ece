"""`python -m api`, which the script `annals` calls."""

import sys

from api.cli import main

if __name__ == "__main__":
    sys.exit(main())
