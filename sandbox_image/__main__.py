"""Starts a sandbox: `python -P -s -S -B -m sandbox_image --session-directory DIR …` in an empty environment."""

import os
import sys

if not __package__:  # started by path, with -P and -S nothing else puts the package's parent here
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sandbox_image.start import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
