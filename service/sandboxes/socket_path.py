"""Paths of unix sockets that fit an address, which is shorter than a data directory's path may be.

On Linux an address has 107 bytes, and a socket is named through `/proc/self/fd/N` of its open directory. macOS has no
such thing: there the path itself has to fit, into 103 bytes.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import RlmServiceError

_MAX_ADDRESS_BYTES = 103


@contextmanager
def short_path(directory: Path, name: str, platform: str = sys.platform) -> Iterator[str]:
    """A path of `directory/name` that fits a socket address, on Linux however deep the directory stands.

    Raises:
        RlmServiceError: it does not fit.
    """
    if platform != "linux":
        path = str(directory / name)
        if len(os.fsencode(path)) > _MAX_ADDRESS_BYTES:
            raise RlmServiceError(
                f"{path} is too long for a unix socket on this system ({_MAX_ADDRESS_BYTES} bytes): "
                "use a data directory with a shorter path"
            )
        yield path
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
