"""The data directory: what lies in it is every tenant's, so it is closed to others before anything opens."""

import os
import stat
from pathlib import Path

import structlog

from service.errors import BadRequest
from service.settings import Settings

WIDEST_MODES = {".": 0o711, "blobs": 0o700, "runtime": 0o711, "sessions": 0o711}
"""Of the data directory and those below that their rooms do not close themselves. A sandbox of another uid without
mounts of its own passes through three of them, and that is all that others may do there."""

_log = structlog.get_logger(__name__)


def sessions_directory(settings: Settings) -> Path:
    """Where session directories stand."""
    return settings.data_directory / "sessions"


def make_data_directory(settings: Settings) -> None:
    """Create it for its owner only, or close one that stands open: what lies in it is every tenant's, and whoever
    reaches its sockets can speak to them.

    Raises:
        BadRequest: it cannot be created, belongs to somebody else, stays open to others or is not writable.
    """
    directory = settings.data_directory
    try:
        for name, widest in WIDEST_MODES.items():
            path = directory / name
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            _close_to_others(path, widest)
    except OSError as exc:
        raise BadRequest(
            f"the data directory {directory} cannot be created and closed to others ({exc.strerror}): set RLM_DATA_DIR"
        ) from exc
    if not os.access(directory, os.W_OK | os.X_OK):
        raise BadRequest(f"the data directory {directory} is not writable: set RLM_DATA_DIR to one that is")


def _close_to_others(path: Path, widest: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise BadRequest(
                f"{path} belongs to uid {found.st_uid} and the service runs as uid {os.geteuid()}: set RLM_DATA_DIR to "
                "a directory of its own"
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode | widest == widest:
            return
        os.fchmod(descriptor, mode & 0o700)
        if os.fstat(descriptor).st_mode & 0o077:
            raise BadRequest(
                f"{path} stays open to other users of this machine: set RLM_DATA_DIR to a file system "
                "that has owners and modes"
            )
        _log.warning("directory_closed_to_others", path=str(path), mode_before=f"{mode:04o}")
    finally:
        os.close(descriptor)
