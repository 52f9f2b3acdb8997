"""Open files: connections leave some for everything else, and the limit is raised as far as they need."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.wiring.open_files import OTHER_FILES, most_connections

TRIED = """
import resource, sys
from service.wiring.open_files import connections_that_fit
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print("fit", connections_that_fit(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 20))
def test_connections_leave_files_for_everything_else(open_files: int, wanted: int) -> None:
    """However few files may be open, some clients are served, never more than were wanted or than leaves files."""
    most = most_connections(open_files, wanted)
    assert 1 <= most <= wanted
    assert most <= max(open_files // 2, open_files - OTHER_FILES) or open_files == 1


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fit", "soft_then"),
    [
        (200, 400, 100, 100, 400),
        (200, 400, 300, 200, 400),
        (200, OTHER_FILES + 600, 500, 500, OTHER_FILES + 500),
        (OTHER_FILES + 550, OTHER_FILES + 600, 500, 500, OTHER_FILES + 550),
    ],
    ids=["few are wanted", "too many are wanted", "raised as far as needed", "enough already"],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(
    soft: int, hard: int, wanted: int, fit: int, soft_then: int
) -> None:
    """The soft limit is raised to what all connections need, or to the hard one; where that is too little, there are
    fewer connections and the log says so."""
    tried = subprocess.run(
        [sys.executable, "-c", TRIED, str(soft), str(hard), str(wanted)], capture_output=True, text=True, check=True
    )
    assert f"fit {fit} {soft_then} {hard}\n" in tried.stdout
    assert ("fewer_connections" in tried.stdout + tried.stderr) == (fit < wanted)
