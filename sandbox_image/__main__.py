"""Starts a sandbox: `python -P -s -S -B -m sandbox_image --session-directory DIR …` in an empty environment."""

import gc
import os
import sys

if not __package__:  # started by path, with -P and -S nothing else puts the package's parent here
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

gc.disable()  # hardly anything of what imports make is garbage, and looking for it is a tenth of a start

from sandbox_image.start import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
