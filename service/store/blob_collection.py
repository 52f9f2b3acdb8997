"""Collecting blobs: removing payloads that nothing refers to, while others put and refer to them.

Who refers to what takes time to find out (`blob_references`); meanwhile somebody may put a payload that is there
already and refer to it. So whoever finds a payload in its place *touches* it, and a payload that was touched lately is
never removed. The two sides meet in the file system, where each step is one call of the operating system:

    put        touch the payload at its place, then look whether it stands there: if not, write it anew
    collect    move an old payload away, look at its time once more: touched meanwhile → move it back, else remove it

A touch that was over before the move is seen. One that was not finds nothing at the place when it looks there, or what
was written anew or moved back, which is not old. Collectors do not meet: each moves under names of its own.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SHARDS = tuple(f"{number:02x}" for number in range(256))
"""Directories that payloads stand in, by the beginning of their digests."""

_AWAY = "collected-"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed."""

    blobs: int
    size_bytes: int


def touch_if_kept(target: Path, size_bytes: int | None) -> bool:
    """Whether the whole payload is there; if so, it will not be collected for a while. Without a size, any."""
    try:
        if size_bytes not in (None, target.stat().st_size):
            return False
        os.utime(target)
        # A collector may have moved it between the two steps that setting its time consists of.
        target.stat()
    except FileNotFoundError:
        return False
    return True


def put_back(payloads: Path, aside: Path) -> None:
    """Undo what a collector that was killed had moved and not looked at again. Safe beside a living one: what it is
    about to remove is then there for the next."""
    for away in aside.glob(f"{_AWAY}*"):
        digest = away.name.removeprefix(_AWAY)[:64]
        with suppress(FileNotFoundError):
            # It may take the place of what was written anew meanwhile, and must not look older than that.
            os.utime(away)
            away.rename(payloads / digest[:2] / digest)


def is_away(path: Path) -> bool:
    """Whether it is a payload that a collector has moved."""
    return path.name.startswith(_AWAY)


class Untouched(NamedTuple):
    """The payloads of a shard, by age."""

    digests: list[str]
    """Of those that nobody has put or touched lately."""
    young: int
    """How many others there are."""


def untouched(payloads: Path, shard: str, *, since: float) -> Untouched:
    """The payloads in a shard that nobody touched since then. Blocks on the file system."""
    try:
        with os.scandir(payloads / shard) as entries:
            found = [entry for entry in entries if _DIGEST.fullmatch(entry.name)]
            old = [entry.name for entry in found if _is_old(entry, since)]
            return Untouched(old, len(found) - len(old))
    except FileNotFoundError:  # nothing was ever put there
        return Untouched([], 0)


def remove(payloads: Path, aside: Path, digests: Iterable[str], *, untouched_since: float) -> Collected:
    """Remove those of the payloads that nobody touched since then.

    Blocks on the file system. `untouched_since` must lie before the moment at which references were looked at, by more
    than anybody takes from putting a payload to referring to it.
    """
    blobs = size_bytes = 0
    for digest in digests:
        size = _remove_if_old(payloads / digest[:2] / digest, aside, untouched_since)
        if size is not None:
            blobs, size_bytes = blobs + 1, size_bytes + size
    return Collected(blobs, size_bytes)


def _is_old(entry: os.DirEntry[str], since: float) -> bool:
    try:
        return entry.stat().st_mtime < since
    except FileNotFoundError:  # another collector was here
        return False


def _remove_if_old(payload: Path, aside: Path, untouched_since: float) -> int | None:
    """Its size, once it is gone; None where it stays."""
    away = aside / f"{_AWAY}{payload.name}-{os.getpid()}-{os.urandom(8).hex()}"
    with suppress(FileNotFoundError):  # another collector was here, or somebody put it back
        if payload.stat().st_mtime >= untouched_since:
            return None
        payload.rename(away)
        status = away.stat()
        if status.st_mtime >= untouched_since:
            away.rename(payload)
            return None
        away.unlink()
        return status.st_size
    return None
