"""Room on the disk: asked before money is spent on what could not be kept.

What comes of a model call is journalled, and where it is large it goes to disk first. A full disk would have the
call made, paid, and lost, and made again by whoever takes the run over. So nothing is begun without some room.
"""

import errno
import os
import time
from pathlib import Path

import anyio
import anyio.to_thread

from service.store.errors import disk_failed

LEAST_BYTES = 16 << 20
"""More than what is under way takes, mostly: who begins while there is less may not be able to end."""
LOOK_AGAIN_S = 1.0


class DiskRoom:
    """Of the places where a replica keeps something. One for all tenants."""

    def __init__(self, *directories: Path) -> None:
        self._directories = directories
        self._looker = anyio.CapacityLimiter(1)
        self._good_until = 0.0

    def __repr__(self) -> str:
        return f"<DiskRoom {' '.join(map(str, self._directories))}>"

    async def require(self) -> None:
        """Return where there is room; one that was found is believed in for `LOOK_AGAIN_S`.

        Raises:
            StoreFailed: there is none, or nobody can tell; it may be asked again at once.
        """
        if time.monotonic() < self._good_until:
            return
        await anyio.to_thread.run_sync(self._look, limiter=self._looker)
        self._good_until = time.monotonic() + LOOK_AGAIN_S

    def _look(self) -> None:
        for directory in self._directories:
            try:
                found = os.statvfs(directory)
                # A file system that does not count its files says that it has none at all.
                has_files = found.f_favail > 0 or found.f_files == 0
                if found.f_bavail * found.f_frsize < LEAST_BYTES or not has_files:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as exc:
                raise disk_failed(exc, f"find {LEAST_BYTES >> 20} MiB of room in {directory}") from exc
