"""Which benchmarks there are, and which of them a machine runs."""

import re
from pathlib import Path

import pytest

from benchmarks.catalogue import BENCHMARKS, NAMES, select, stages

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def test_names_are_unique_and_each_backend_has_the_same_ones() -> None:
    """A name stands for one figure, and what is measured on Docker is measured on processes too."""
    assert len(set(NAMES)) == len(NAMES)
    by_stage = {
        stage: {benchmark.name.removesuffix(f"_{stage}") for benchmark in BENCHMARKS if benchmark.stage == stage}
        for stage in ("docker", "process")
    }
    assert by_stage["docker"] == by_stage["process"]


def test_every_benchmark_is_documented() -> None:
    """docs/performance.md explains each name, whole or without its backend."""
    text = DOCUMENT.read_text()
    for benchmark in BENCHMARKS:
        name = re.sub(r"_(docker|process)\Z", "", benchmark.name)
        assert f"`{name}`" in text, benchmark.name


def test_without_names_everything_is_selected_in_the_order_of_the_catalogue() -> None:
    """No name means all."""
    assert tuple(benchmark.name for benchmark in select((), {}).run) == NAMES


def test_what_a_machine_lacks_is_named_with_its_reason_and_not_run() -> None:
    """A missing backend costs its own rows and no others, and nobody can overlook it."""
    selection = select((), {"docker": "no engine"})
    assert "docker" not in {benchmark.stage for benchmark in selection.run}
    assert {benchmark.stage for benchmark, _ in selection.absent} == {"docker"}
    assert {reason for _, reason in selection.absent} == {"no engine"}
    assert len(selection.run) + len(selection.absent) == len(NAMES)
    assert selection.of("docker") == ()


def test_only_what_was_asked_for_is_opened() -> None:
    """Asking for one floor needs neither the reference library nor a backend of both sides."""
    assert stages(["cli_help"]) == ("floors",)
    assert [benchmark.name for benchmark in select(["cli_help"], {"docker": "no engine"}).run] == ["cli_help"]
    assert select(["cli_help"], {"docker": "no engine"}).absent == ()


def test_a_name_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """A typing error does not become an empty run."""
    with pytest.raises(ValueError, match=r"no benchmark is named nothing.*cli_help"):
        select(["nothing"], {})
