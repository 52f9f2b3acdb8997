"""What a process has used of the processors, told from outside."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks.cpu import cpu_seconds


def test_a_process_is_told_as_it_would_tell_itself() -> None:
    """Read by its id, a process's time stands between two readings of its own."""
    before = time.process_time()
    told = cpu_seconds(os.getpid())
    assert before <= told <= time.process_time()


def test_a_process_that_is_not_there_is_an_error() -> None:
    """A side that has died is not taken for one that costs nothing."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_seconds(gone.pid)
