"""The documents say what is there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main

from service.cli.entry import app
from service.loop.values import AnswerSource, StopReason
from service.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONVENTIONS = {"HOME", "XDG_DATA_HOME"}
"""Read to find the data directory's default; not settings of ours."""

RUNNABLE = re.compile(r"<!-- runs as a test -->\n```sh\n(.*?)```", re.DOTALL)


class Watching(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_every_setting_is_documented_and_nothing_else() -> None:
    """docs/settings.md has a row for each variable that is read, with its default where that is a number."""
    environment = Watching()
    settings = read_settings(environment)
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", (DOCS / "settings.md").read_text(), re.MULTILINE))
    assert set(rows) == environment.asked - CONVENTIONS
    assert rows["RLM_SANDBOX_SLOTS"] == f"`{settings.sandbox_slots}`"
    assert rows["RLM_WARM_SANDBOXES"] == f"`{settings.warm_sandboxes}`"
    assert rows["RLM_SANDBOX_MEMORY_MB"] == f"`{settings.sandbox_memory_bytes >> 20}`"
    assert rows["RLM_MODEL_CONCURRENCY"] == f"`{settings.model_concurrency}`"


def test_every_command_and_option_is_documented() -> None:
    """docs/cli.md names each command and each of its options, and no option that does not exist."""
    text = (DOCS / "cli.md").read_text()
    program = typer.main.get_command(app)
    options = {"--help", "--traceback"} | {name for parameter in program.params for name in parameter.opts}
    for path, command in commands(program):
        assert re.search(rf"\b{' '.join(path)}\b", text), path
        options |= {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    assert {name for name in options if name.startswith("-")} - documented <= {"-h", "--help", "--traceback"}
    assert documented <= options | {"-h"}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, each in below.items():
        yield from commands(each, (*path, name))


def test_the_glossary_knows_every_stop_reason_and_answer_source() -> None:
    """What a run can end with is explained in docs/concepts.md."""
    text = (DOCS / "concepts.md").read_text()
    for value in (*StopReason, *AnswerSource):
        assert f"`{value}`" in text


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link in README and docs names a file."""
    for document in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} → {target}"


def test_the_readme_is_short() -> None:
    """120 lines are what a newcomer reads."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def runnable_blocks() -> list[Any]:
    documents = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
    return [
        pytest.param(block, id=f"{document.name}-{number}")
        for document in documents
        for number, block in enumerate(RUNNABLE.findall(document.read_text()))
    ]


@pytest.mark.parametrize("block", runnable_blocks())
def test_what_the_documents_tell_people_to_type_works(block: str, tmp_path: Path) -> None:
    """A marked code block runs in an empty directory without an error."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RLM_DATA_DIR": str(tmp_path / "data"),
        "LANG": "C.UTF-8",
    }
    command = ["sh", "-eu", "-c", block]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "4711" in done.stdout
