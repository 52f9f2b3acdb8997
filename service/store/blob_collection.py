"""Collecting blobs: removing payloads that nothing refers to, while others put and refer to them.

Who refers to what is for the caller to know, and takes time to find out; meanwhile somebody may put a payload that is
there already and refer to it. So whoever finds a payload in its place *touches* it, and a payload that was touched
lately is never removed. The two sides meet in the file system, where each step is one atomic call:

    put        touch the payload at its place: worked → it is kept; nothing there → write it anew
    collect    move an old payload away, look at its time once more: touched meanwhile → move it back, else remove it

A touch finds the payload either before it is moved, and is seen, or not at all.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_AWAY = "collected-"


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed."""

    blobs: int
    size_bytes: int


def touch_if_kept(target: Path, size_bytes: int) -> bool:
    """Whether the whole payload is there; if so, it will not be collected for a while."""
    try:
        if target.stat().st_size != size_bytes:
            return False
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def put_back(payloads: Path, aside: Path) -> None:
    """Undo what a collector that was killed had moved and not looked at again. Safe beside a living one: what it is
    about to remove is then there for the next."""
    for away in aside.glob(f"{_AWAY}*"):
        digest = away.name.removeprefix(_AWAY)
        with suppress(FileNotFoundError):
            away.rename(payloads / digest[:2] / digest)


def collect(payloads: Path, aside: Path, is_referenced: Callable[[str], bool], *, untouched_since: float) -> Collected:
    """Remove every payload that nobody touched since then and that is not referenced.

    Blocks on the file system. `untouched_since` must lie before the moment at which references were looked at, by more
    than anybody takes from putting a payload to referring to it.
    """
    blobs = size_bytes = 0
    for shard in sorted(payloads.iterdir()):
        for payload in sorted(shard.iterdir()):
            size = _remove_if_old(payload, aside, is_referenced, untouched_since)
            if size is not None:
                blobs, size_bytes = blobs + 1, size_bytes + size
    return Collected(blobs, size_bytes)


def _remove_if_old(
    payload: Path, aside: Path, is_referenced: Callable[[str], bool], untouched_since: float
) -> int | None:
    """Its size, once it is gone; None where it stays."""
    with suppress(FileNotFoundError):  # another collector was here
        if payload.stat().st_mtime >= untouched_since or is_referenced(payload.name):
            return None
        away = aside / f"{_AWAY}{payload.name}"
        payload.rename(away)
        status = away.stat()
        if status.st_mtime >= untouched_since:
            away.rename(payload)
            return None
        away.unlink()
        return status.st_size
    return None
