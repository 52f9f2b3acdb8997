"""What the tests of this room share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that a sandbox of another uid can pass through; pytest's own is closed to others."""
    path = Path(tempfile.mkdtemp(prefix="rlm-sandboxes-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """Where providers keep the image; one for all tests, so that it is compiled once."""
    path = Path(tempfile.mkdtemp(prefix="rlm-runtime-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)
