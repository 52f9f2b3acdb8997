"""Where `--out` puts an answer."""

import os
from pathlib import Path

from service.errors import BadRequest


def check_target(target: Path) -> None:
    """Refuse a `--out` that cannot work before any money is spent on an answer for it."""
    directory = target.parent
    if target.is_dir() or not directory.is_dir() or not os.access(directory, os.W_OK):
        raise BadRequest(f"the answer cannot be written to {target}: name a file in a directory that you may write to")
