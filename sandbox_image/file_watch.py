"""How many files a kernel makes in the places that it may write to, as seen from outside.

A `/tmp` of bounded size does not bound their number where whoever mounted it could not say one (bubblewrap): each is a
kilobyte of Linux's own memory, which no limit of the sandbox counts.
"""

import os
import time
from contextlib import suppress

WATCH_INTERVAL_S = 0.2
BYTES_PER_FILE = 4096
"""Of a place's size: what a container's own limit on files is too."""
LEAST_FILES = 1024
_PLACES_BESIDE = ("/dev/shm",)  # noqa: S108 - the sandbox's own


class FileWatch:
    """Over the places of one sandbox that are file systems of their own. Where the place is a directory of the host's
    (Landlock), or its number of files is limited already, there is nothing to look at."""

    def __init__(self, tmp_directory: str) -> None:
        places = (tmp_directory, *_PLACES_BESIDE) if os.path.ismount(tmp_directory) else ()
        self._most = {place: most for place in places if (most := most_files(place)) is not None}
        self._next_look = 0.0

    @property
    def is_possible(self) -> bool:
        return bool(self._most)

    def finds_too_many(self) -> bool:
        """Looks at most once in `WATCH_INTERVAL_S`."""
        now = time.monotonic()
        if not self._most or now < self._next_look:
            return False
        self._next_look = now + WATCH_INTERVAL_S
        return self._is_too_full()

    def make_empty(self) -> bool:
        """After the kernel has ended: whether there is room again."""
        for place in self._most:
            empty(place)
        return not self._is_too_full()

    def _is_too_full(self) -> bool:
        return any(_files(place) > most for place, most in self._most.items())


def make_new(tmp_directory: str) -> bool:
    """Take away everything that kernels left, once none runs; whether nothing is left. What a cell may write to is then
    as it was in a sandbox that nothing has run in."""
    # Where /tmp is a directory of the host's (Landlock) the places beside are, and closed.
    places = (tmp_directory, *(_PLACES_BESIDE if os.path.ismount(tmp_directory) else ()))
    for place in places:
        empty(place)
    return not any(os.listdir(place) for place in places)


def most_files(place: str) -> int | None:
    """How many there may be; None where the file system has a limit of its own that is no higher, or none to ask."""
    if not os.path.ismount(place):
        return None
    found = os.statvfs(place)
    most = max(LEAST_FILES, found.f_blocks * found.f_frsize // BYTES_PER_FILE)
    return most if found.f_files > most else None


def _files(place: str) -> int:
    found = os.statvfs(place)
    return found.f_files - found.f_ffree


def empty(place: str) -> None:
    """Remove all that can be removed, however deep: what is in a directory is moved up to `place` before it goes."""
    chance, moved = os.urandom(8).hex(), 0  # no name that somebody could have left there
    while True:
        progress = False
        for entry in list(os.scandir(place)):
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                else:
                    for below in list(os.scandir(entry.path)):
                        moved += 1
                        os.rename(below.path, os.path.join(place, f".moved-{chance}-{moved}"))
                    os.rmdir(entry.path)
                progress = True
        if not progress:
            return
