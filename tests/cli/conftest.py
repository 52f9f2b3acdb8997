"""The command line as people run it: real processes, a data directory of the module's own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("rlm-service")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """`rlm-service` in an environment without keys, in a directory of its own."""

    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "RLM_DATA_DIR": str(self.directory / "data"),
            **self.settings,
        }

    def run(self, *arguments: str, given: bytes = b"") -> "Done":
        done = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.directory,
            env=self.environment,
            input=given,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr.decode())

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """The caller waits for it; what it says on stderr comes line by line."""
        return subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: int
    out: bytes
    err: str

    @property
    def complaint(self) -> str:
        """The one sentence on stderr of a command that failed before it began."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("rlm-service: ")
        return lines[0].removeprefix("rlm-service: ")


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(directory=tmp_path_factory.mktemp("cli"))
