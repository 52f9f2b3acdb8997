"""The mutants of the chaos campaign are defects still, however the service was rewritten since."""

import subprocess
import sys

from tests.chaos.mutants import MUTANTS
from tests.machine import ROOT

PUT_ALL_IN = """
from tests.chaos.mutants import MUTANTS

for name in sorted(MUTANTS, key=lambda name: name != "drop_fences"):
    MUTANTS[name].put_in()
import service.journal.redis_journal
"""
"""In a process of its own; what scripts are read as comes first."""


def test_every_defect_finds_the_place_that_it_spoils() -> None:
    """What a mutant replaces is there: a name, or a line of a script; otherwise its campaign would try nothing."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){PUT_ALL_IN}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "drop_fences" in MUTANTS
