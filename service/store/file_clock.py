"""The clock of a file system: that of the machine that keeps it, which may be neither a replica's nor the store's.

How old a file is can be told only by the clock that its times were written by.
"""

import os
from pathlib import Path

import anyio
import anyio.to_thread

from service.store.errors import disk_failed


async def file_system_now(directory: Path) -> float:
    """What time it is for files in a directory (Unix seconds). It is touched for that as they are, and made if need be.

    Raises:
        StoreFailed: the directory cannot be used.
    """

    def touch() -> float:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            os.utime(directory)
            return directory.stat().st_mtime
        except OSError as error:
            raise disk_failed(error, f"touch {directory}") from error

    return await anyio.to_thread.run_sync(touch)
