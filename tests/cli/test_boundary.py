"""How a command's failure reaches the person who typed it."""

import subprocess
import sys

PROGRAM = """
import sys
from service.cli.boundary import run_command
from service.errors import BadRequest

async def fail():
    raise {what}

run_command(fail, show_traceback={show})
"""


def end(what: str, *, show_traceback: bool = False) -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(what=what, show=show_traceback)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_defect_is_one_line_that_says_where() -> None:
    """An error that nobody foresaw: exit code 1, its type and place on one line, hostile text escaped, no traceback."""
    done = end(r"KeyError('\x1b[2J\n')")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "a defect of this program" in done.stderr
    assert "KeyError at <string>:7" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_defect_shows_its_origin_on_request() -> None:
    """--traceback adds the traceback for a report."""
    done = end("KeyError('x')", show_traceback=True)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_an_error_of_ours_in_a_group_is_its_sentence() -> None:
    """Task groups wrap errors; what the person reads is the sentence inside."""
    done = end("ExceptionGroup('g', [ValueError('noise'), ExceptionGroup('h', [BadRequest('say it better')])])")
    assert (done.returncode, done.stderr) == (2, "rlm-service: say it better\n")


def test_a_closed_pipe_is_silent() -> None:
    """Output that nobody reads any more is no defect."""
    done = end("BrokenPipeError()")
    assert (done.returncode, done.stderr) == (141, "")
