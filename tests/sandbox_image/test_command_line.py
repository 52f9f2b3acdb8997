"""The command line is closed."""

import subprocess

import pytest

from sandbox_image.start import EXIT_NOT_CONFINED, EXIT_USAGE, UsageError, read_command_line
from sandbox_image.system import Identity
from tests.sandbox_image.host import IMAGE, python_for


def test_all_words_are_read() -> None:
    """Every documented word has its effect on the result."""
    words = "--session-directory /s --tmp /t --uid 7 --gid 8 --confine landlock --open-files 99 --host-patience-s 3"
    line = read_command_line([*words.split(), "--unsafe-unconfined"])
    assert (line.session_directory, line.tmp_directory, line.identity) == ("/s", "/t", Identity(uid=7, gid=8))
    assert (line.confined_by, line.open_files, line.host_patience_s, line.unconfined) == ("landlock", 99, 3, True)
    assert read_command_line(["--session-directory", "/s", "--confine", "seatbelt"]).confined_by == "seatbelt"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--tmp /t",
        "--session-directory",
        "--session-directory /s --session-directory /s",
        "--session-directory /s --uid 7",
        "--session-directory /s --uid 0 --gid 0",
        "--session-directory /s --open-files -1",
        "--session-directory /s --confine seccomp",
        "--session-directory /s --more",
    ],
)
def test_anything_else_is_refused(words: str) -> None:
    """Unknown, repeated, incomplete and impossible words are usage errors."""
    with pytest.raises(UsageError):
        read_command_line(words.split())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--more"], EXIT_USAGE),
        (["--session-directory", "/", "--tmp", "/absent", "--confine", "landlock"], EXIT_NOT_CONFINED),
        (["--session-directory", "/", "--confine", "seatbelt"], EXIT_NOT_CONFINED),
    ],
)
def test_a_sandbox_that_cannot_start_says_why_by_its_exit_code(words: list[str], code: int) -> None:
    """Wrong words and missing confinement have exit codes of their own."""
    done = subprocess.run(
        [python_for(None), "-P", "-s", "-S", "-B", "-m", "sandbox_image", *words],
        env={"PYTHONPATH": str(IMAGE.parent)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr.startswith(b"sandbox: ")) == (code, True)
