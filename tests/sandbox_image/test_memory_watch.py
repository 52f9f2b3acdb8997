"""What a kernel holds, read from what Linux says of it."""

import os
from functools import partial
from pathlib import Path

import pytest

from sandbox_image.linux import Linux, held_bytes
from sandbox_image.memory_watch import MemoryWatch

STATUS = b"""Name:\tpython3
State:\tS (sleeping)
VmData:\t 2000 kB
RssAnon:\t 1000 kB
RssFile:\t 512000 kB
RssShmem:\t 100 kB
VmPTE:\t 2010 kB
VmSwap:\t 1 kB
Threads:\t1
"""


def test_what_no_file_backs_is_counted() -> None:
    """Private, shared and swapped pages count, mapped texts do not, and of tables those that such texts do not need."""
    assert held_bytes(STATUS) == (1000 + 100 + 1 + 10) << 10


@pytest.mark.parametrize("status", [b"", b"Name:\tx\nVmRSS:\t1 kB\n", b"RssAnon:\tmuch\n"])
def test_a_status_without_it_says_nothing(status: bytes) -> None:
    """Where Linux does not say how much is private (gVisor), nothing is guessed."""
    assert held_bytes(status) is None


def test_this_process_is_within_and_beyond() -> None:
    """The bound decides, on a living process; of one that is gone there is nothing to find."""
    assert Path("/proc/self/status").exists()
    held = partial(Linux().held_bytes, os.getpid())
    assert MemoryWatch(held, 1 << 40).finds_too_much() is False
    assert MemoryWatch(held, -(1 << 30)).finds_too_much() is True
    assert MemoryWatch(partial(Linux().held_bytes, 1 << 30), 0).is_possible is False
