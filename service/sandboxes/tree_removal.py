"""Removes a directory that hostile code has filled, however deep, closed or full it is.

`shutil.rmtree` recurses: ten thousand nested directories end it, and directories closed to their owner stop it. Here
the directories of the second level are moved up to the first before their parent is removed, so the depth that has to
be walked is never more than two, and no path is ever long. The code that filled it must have ended.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def remove_tree(root: Path) -> bool:
    """Remove it with all it holds; whether nothing is left. Idempotent; follows no link."""
    try:
        if not stat.S_ISDIR(os.lstat(root).st_mode):
            return False
        with _opened(str(root), None) as descriptor:
            _empty(descriptor)
        root.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _empty(root: int) -> None:
    moved = 0
    while names := os.listdir(root):
        for name in names:
            if not _is_directory(name, root):
                os.unlink(name, dir_fd=root)
                continue
            with _opened(name, root) as directory:
                for inner in os.listdir(directory):
                    if _is_directory(inner, directory):
                        moved = _move_up(inner, directory, root, moved)
                    else:
                        os.unlink(inner, dir_fd=directory)
            os.rmdir(name, dir_fd=root)


def _move_up(name: str, directory: int, root: int, moved: int) -> int:
    """Under a number that is free; the number to go on from. Moving a directory needs the right to write in it."""
    with contextlib.suppress(OSError):
        os.chmod(name, 0o700, dir_fd=directory)
    while True:
        moved += 1
        if not _exists(f".moved-{moved}", root):
            os.rename(name, f".moved-{moved}", src_dir_fd=directory, dst_dir_fd=root)
            return moved


@contextlib.contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int]:
    os.chmod(name, 0o700, dir_fd=parent)
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
