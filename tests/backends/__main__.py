"""`python -m backends up|down`: start the backends and keep them, or stop them again."""

import sys

from backends.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
