"""What the sandbox image consists of, file by file."""

import io
import tarfile
from collections.abc import Iterator

import pytest

from tests.machine import SANDBOX_IMAGE
from tests.sandboxes.docker_machine import build_image, engine

pytestmark = pytest.mark.needs_docker

MADE_BY_DOCKER = {".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/mtab", "etc/resolv.conf"}
"""Mount points that every container gets; they stand in the archive of a container, not in the image."""
PLACES = ("rlm/", "usr/", "lib", "etc/", "tmp/", "proc/", "sys/", "dev/")
PROGRAMS = set("sh bash dash busybox gcc cc ld as make curl wget nc perl pip apt dpkg".split())  # noqa: SIM905


@pytest.fixture(scope="module")
def members() -> Iterator[dict[str, tarfile.TarInfo]]:
    """Every entry of the image, by path."""
    build_image()
    with engine() as client:
        container = client.create_container(SANDBOX_IMAGE, command=["none"], labels={"rlm.test": "image contents"})[
            "Id"
        ]
        try:
            archive = io.BytesIO(b"".join(client.export(container)))
        finally:
            client.remove_container(container, force=True)
    with tarfile.open(fileobj=archive) as tar:
        yield {member.name.removeprefix("./"): member for member in tar if member.name not in MADE_BY_DOCKER}


def test_no_file_gives_rights_or_can_be_changed(members: dict[str, tarfile.TarInfo]) -> None:
    """No suid or sgid bit, no device, nothing that anybody may write but /tmp, everything root's."""
    for name, member in members.items():
        assert not member.mode & 0o6000, name
        assert member.isfile() or member.isdir() or member.issym() or member.islnk(), name
        if member.isfile():
            assert not member.mode & 0o222, name
            assert (member.uid, member.gid) == (0, 0), name


def test_there_are_no_programs_but_python(members: dict[str, tarfile.TarInfo]) -> None:
    """No shell, compiler, linker, downloader or package installer, and among programs nothing but Python."""
    files = {name: member for name, member in members.items() if member.isfile() or member.issym()}
    assert not {name.rpartition("/")[2] for name in files} & PROGRAMS
    in_bin = {name for name in files if name.split("/")[-2:-1] in (["bin"], ["sbin"])}
    assert all(name.rpartition("/")[2].startswith("python3") for name in in_bin), in_bin


def test_no_foreign_code_rides_along(members: dict[str, tarfile.TarInfo]) -> None:
    """No `.pth`, no site or user customisation, no installed package."""
    names = set(members)
    assert not {name for name in names if name.endswith(".pth")}
    assert not {name for name in names if name.rpartition("/")[2] in ("sitecustomize.py", "usercustomize.py")}
    assert not {name for name in names if "/site-packages/" in name or "/dist-packages/" in name}
    assert not {name for name in names if name.startswith("rlm/packages/")}


def test_everything_has_a_reason_to_be_there(members: dict[str, tarfile.TarInfo]) -> None:
    """Files stand below the interpreter's, the libraries' and our own directories, and nowhere else."""
    strays = {name for name, member in members.items() if member.isfile() and not name.startswith(PLACES)}
    assert strays == set()
    assert not {name for name in members if name in ("etc/passwd", "etc/shadow", "etc/group")}
