"""What happens when stdin keeps us waiting, stdout takes nothing, or stderr is gone."""

import os
import pty
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pytest

from service.cli.out_file import check_target
from service.errors import BadRequest
from tests.cli.conftest import PROGRAM, CommandLine, Done
from tests.cli.test_commands import QUESTION, SCRIPTED, read_terminal


def run_into(
    command_line: CommandLine, *arguments: str, out: int | IO[Any] | None = None, err: int | IO[Any] | None = None
) -> Done:
    """None: closed, as `>&-` does in a shell."""
    closed = [str(number) for number, where in ((1, out), (2, err)) if where is None]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {" ".join(f"{number}>&-" for number in closed)}', "sh", str(PROGRAM), *arguments],
        cwd=command_line.directory,
        env=command_line.environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        timeout=100,
        check=False,
    )
    return Done(code=done.returncode, out=done.stdout or b"", err=(done.stderr or b"").decode())


@pytest.fixture(scope="module")
def note(command_line: CommandLine) -> str:
    path = command_line.directory / "note.txt"
    path.write_text("filler\n" * 3000 + "The magic number is 8472093\n")
    return str(path)


@pytest.mark.parametrize("full", [True, False])
def test_an_answer_that_stdout_does_not_take_is_kept(command_line: CommandLine, note: str, full: bool) -> None:
    """A full disk or a closed stdout: exit code 6 and a sentence whose command prints the answer."""
    with open("/dev/full", "wb") as device:
        arguments = ("ask", "-q", QUESTION, "-c", note, *SCRIPTED)
        done = run_into(command_line, *arguments, out=device if full else None, err=subprocess.PIPE)
        assert done.code == 6
        assert "the answer could not be written to stdout: " in done.complaint
        told = re.search(r"`rlm-service (runs show run_\w+ --answer)` prints it", done.complaint)
        assert told is not None
        assert b"8472093" in command_line.run(*told.group(1).split()).out
        listing = run_into(command_line, "runs", "ls", out=device if full else None, err=subprocess.PIPE)
    assert (listing.code, "stdout could not be written" in listing.complaint) == (6, True)


@pytest.mark.parametrize("full", [True, False])
def test_a_stderr_that_takes_nothing_costs_no_answer(command_line: CommandLine, note: str, full: bool) -> None:
    """Progress goes nowhere, the answer is on stdout, and the run counts as answered."""
    with open("/dev/full", "wb") as device:
        arguments = ("ask", QUESTION, "-c", note, *SCRIPTED)
        done = run_into(command_line, *arguments, out=subprocess.PIPE, err=device if full else None)
    assert done.code == 0
    assert b"8472093" in done.out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_waiting_for_a_pipe(command_line: CommandLine, how: signal.Signals, tmp_path: Path) -> None:
    """While somebody has yet to write into a named pipe, the first signal ends the command: 130, and not a word."""
    os.mkfifo(tmp_path / "pipe")
    with command_line.start("ask", QUESTION, "-c", str(tmp_path / "pipe"), *SCRIPTED) as process:
        writing = os.open(tmp_path / "pipe", os.O_WRONLY)  # returns when the command has opened it to read
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        os.close(writing)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_one_ctrl_c_ends_waiting_for_the_terminal(command_line: CommandLine) -> None:
    """Stdin of a terminal is announced with the key that ends it, and Ctrl-C ends it as well."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "ask", QUESTION, "-c", "-", *SCRIPTED],
        cwd=command_line.directory,
        env=command_line.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        assert process.stderr.readline() == b"reading stdin (Ctrl-D ends it)\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    os.close(ours)
    assert process.returncode == 130


def test_quiet_is_not_silent(command_line: CommandLine, note: str, tmp_path: Path) -> None:
    """With -q a run that a limit ended says so, and what was left out of a directory is told; nothing else is."""
    (tmp_path / "a.txt").write_text(Path(note).read_text())
    (tmp_path / "b.bin").write_bytes(b"\0")
    done = command_line.run("ask", "-q", QUESTION, "-c", str(tmp_path), *SCRIPTED, "--max-turns", "1")
    left_out, ended = done.err.splitlines()
    assert (done.code, "left out 1 file: not text (b.bin)" in left_out) == (3, True)
    assert ended.startswith("stopped at the turn limit · answer (extracted)")


@pytest.mark.takes_long
def test_a_full_disk_is_told(command_line: CommandLine, tmp_path: Path) -> None:
    """On a full disk `doctor` reports it part by part, and every command ends with exit code 6 and what to do."""
    script = (
        'mount -t tmpfs -o size=64k tmpfs "$1" && { cat /dev/zero > "$1/fill" 2>/dev/null; '
        'export RLM_DATA_DIR="$1/data"; "$2" doctor; echo "code $?"; "$2" runs ls; echo "code $?"; }'
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path), str(PROGRAM)]
    environment: Mapping[str, str] = command_line.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    if "code" not in done.stdout:
        assert not os.environ.get("CI"), "under CI a file system can be mounted"
        pytest.skip(f"no file system can be mounted here: {done.stderr[-200:]}")
    lines = done.stdout.splitlines()
    full = [line.split(":")[0].split(maxsplit=1)[1] for line in lines if "the disk is full; free space" in line]
    assert full == ["data directory", "store", "sandbox"]
    assert [line for line in lines if line.startswith("code")] == ["code 6", "code 6"]
    assert "the disk is full; free space or point RLM_DATA_DIR at a larger disk" in done.stderr


ENDS_WITH_A_NEWLINE = """
import anyio
from service.cli.delivery import print_chunks

async def chunks():
    yield b"one"
    yield b"\\n"

anyio.run(print_chunks, chunks())
"""


def test_a_terminal_gets_one_newline_at_the_end() -> None:
    """An answer that ends its own line is not followed by an empty one."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([str(PROGRAM.with_name("python")), "-c", ENDS_WITH_A_NEWLINE], stdout=theirs):
        os.close(theirs)
        assert read_terminal(ours) == "one\r\n"


def test_where_an_answer_cannot_be_written_is_found_out_beforehand(tmp_path: Path) -> None:
    """Directories, missing directories and file systems that take no files are refused; a device is taken as it is."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    for impossible in (tmp_path, tmp_path / "gone" / "x", Path("/proc/x")):
        with pytest.raises(BadRequest, match="cannot be written to") as refused:
            check_target(impossible)
        assert "the answer" not in str(refused.value), "an export is written so too"
    assert check_target(link).path == tmp_path / "file"
    assert check_target(Path("/dev/null")).unfinished is None
    assert os.listdir(tmp_path) == ["link"]
