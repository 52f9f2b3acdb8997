"""deploy/compose/prepare.sh, which runs as root in a directory that the service's uid has a part of."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.machine import ROOT

UID = 65_533


@pytest.mark.needs_root
def test_a_link_in_the_services_directory_gives_it_nothing(tmp_path: Path) -> None:
    """Where the service put a link, prepare.sh ends, and what the link leads to keeps its owner and mode."""
    for path in (tmp_path, *tmp_path.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    victim, directory = tmp_path / "victim", tmp_path / "rlm"
    victim.mkdir(mode=0o700)
    (directory / "data").mkdir(parents=True)
    (directory / "data/sessions").symlink_to(victim)
    os.chown(directory / "data", UID, UID)
    prepared = subprocess.run(
        ["sh", ROOT / "deploy/compose/prepare.sh", directory, tmp_path / "env"],
        env={**os.environ, "RLM_UID": str(UID)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert prepared.returncode != 0
    assert "data/sessions" in prepared.stderr
    found = victim.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.getuid(), 0o700)
