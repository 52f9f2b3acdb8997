"""The host's own bound on a cell's active time."""

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from service.sandboxes.cell_watch import UNSEEN_SHARE, Allowance, Use, overrun
from service.sandboxes.port import Measured
from service.sandboxes.processes import measured

ALLOWANCE = Allowance(active_limit_s=10, room_s=5)
SECONDS = st.floats(min_value=0, max_value=1e6)


@given(active_s=SECONDS, waited_s=SECONDS, cpu_s=SECONDS)
def test_a_cell_within_both_bounds_is_left_alone(active_s: float, waited_s: float, cpu_s: float) -> None:
    """Waiting is free however long; active wall time and CPU time up to limit and room are, too."""
    use = Use(wall_s=waited_s + min(active_s, 14.9), waited_s=waited_s, cpu_s=min(cpu_s, 15))
    assert overrun(use, ALLOWANCE) is None


@given(wall_s=st.floats(min_value=17, max_value=1e6), waited_share=st.floats(min_value=0, max_value=1), cpu_s=SECONDS)
def test_a_cell_past_either_bound_has_overrun(wall_s: float, waited_share: float, cpu_s: float) -> None:
    """CPU time past the bound counts however much the cell waits; wall time counts without what it waited."""
    use = Use(wall_s=wall_s, waited_s=wall_s * waited_share, cpu_s=cpu_s)
    is_past = cpu_s > 15 or wall_s - wall_s * waited_share > 15 + UNSEEN_SHARE * wall_s
    assert (overrun(use, ALLOWANCE) is not None) == is_past


def test_cpu_time_is_that_of_the_whole_tree() -> None:
    """What a child used, running or ended, counts to the process above it; a process that is gone counts nothing."""
    spin = "import time\nwhile time.process_time() < 0.3: pass\n"
    waits = "import sys; print('.', flush=True); sys.stdin.read()"
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {spin!r}])\n"
        f"subprocess.run([sys.executable, '-c', {spin + waits!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.read(1)
        assert measured([parent.pid]).cpu_s >= 0.5  # of 0.6, as clock ticks round
        assert measured([parent.pid, parent.pid]).cpu_s < measured([parent.pid]).cpu_s + 0.3
        parent.communicate()
    assert measured([parent.pid]) == Measured(cpu_s=0, memory_peak_bytes=0)
    assert measured([os.getpid()]).cpu_s > 0


def test_the_peak_is_what_a_process_once_held() -> None:
    """Memory that a child had and gave back still counts, as long as the child is there."""
    code = (
        "import subprocess, sys\n"
        "held = 'import sys; bytearray(64 << 20); print(1, flush=True); sys.stdin.read()'\n"
        "subprocess.run([sys.executable, '-c', held])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.read(1)
        assert 64 << 20 <= measured([parent.pid]).memory_peak_bytes < 128 << 20
        parent.communicate()
