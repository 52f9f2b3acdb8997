"""What is counted of a kernel's files, and how they are removed."""

import os
from pathlib import Path

from sandbox_image.file_watch import FileWatch, empty, most_files


def test_a_directory_of_the_host_is_not_counted(tmp_path: Path) -> None:
    """Where `/tmp` is no file system of its own, the number of its files says nothing of a kernel."""
    assert most_files(str(tmp_path)) is None
    assert not FileWatch(str(tmp_path)).is_possible


def test_a_hostile_tree_is_emptied(tmp_path: Path) -> None:
    """Deep, closed and linked entries go; what links point to stays, and so does the place itself."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("kept")
    place = tmp_path / "place"
    place.mkdir()
    here = os.open(place, os.O_RDONLY)
    for _ in range(2_000):
        os.mkdir("d", dir_fd=here)
        os.symlink(outside, "link", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("closed", 0, dir_fd=here)
    os.close(here)
    (place / ".moved-1").mkdir()
    (place / ".moved-1" / "f").write_text("in the way of what is moved")
    empty(str(place))
    assert list(place.iterdir()) == []
    assert (outside / "keep").read_text() == "kept"
