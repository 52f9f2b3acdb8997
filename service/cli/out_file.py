"""Where `--out` puts an answer or an export."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from service.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A place that could be written when it was looked at."""

    path: Path
    """What a link leads to."""
    unfinished: Path | None
    """Where the answer stands until it is whole; None for a device or a pipe, which takes it as it comes."""


def check_target(given: Path) -> Target:
    """Refuse a `--out` that cannot work before any money is spent on what it is for."""
    try:
        mode = given.stat().st_mode
    except OSError:
        mode = stat.S_IFREG
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        if not os.access(given, os.W_OK):
            raise BadRequest(f"{given} cannot be written to: access is denied")
        return Target(path=given, unfinished=None)
    path = Path(os.path.realpath(given))
    if not stat.S_ISREG(mode) or not os.path.isdir(path.parent):  # unlike Path.is_dir it is false, not an error
        raise BadRequest(f"{given} cannot be written to: name a file in a directory that exists")
    unfinished = path.with_name(f".{path.name[:200]}.{os.getpid()}")
    try:
        unfinished.touch(exist_ok=False)
        unfinished.unlink()
    except OSError as error:
        raise BadRequest(f"{given} cannot be written to: {error.strerror}") from error
    return Target(path=path, unfinished=unfinished)
