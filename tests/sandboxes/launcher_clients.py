"""What the tests of the launcher share: a place for it, and words to it and about it."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def place_for_launcher() -> Iterator[Path]:
    """A directory that other uids may pass through, for the time of the block."""
    path = Path(tempfile.mkdtemp(prefix="rlm-launcher-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, onerror=_unless_gone)  # a launcher that outlives a test takes its socket away meanwhile


def _unless_gone(_call: object, _path: str, failure: tuple[type, BaseException, object]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def ask(path: Path, line: bytes) -> bytes:
    """One line to the launcher, and all that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        try:
            connection.sendall(line)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            return b""
        return answer


def told_by_proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed]
