"""Prompt packs: data with placeholders, rendered into a system message."""

import hashlib
from dataclasses import replace

import pytest

from service.errors import BadRequest
from service.loop.packs import PACKS, read_pack
from service.loop.prompts import PromptFigures, parse_pack, render
from service.loop.reply import parse
from service.loop.values import Limits
from service.money import NanoUSD

FIGURES = PromptFigures(
    root_window_tokens=400_000,
    sub_model="local/qwen3",
    sub_window_tokens=32_000,
    sub_input_nano_usd_per_mtok=250_000_000,
    sub_output_nano_usd_per_mtok=2_000_000_000,
    limits=Limits(turns=17, cost=NanoUSD(500_000_000), sub_calls=321),
    depth=0,
)


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("priced", [True, False])
@pytest.mark.parametrize("depth", [0, 1])
def test_every_pack_renders_without_a_hole(name: str, priced: bool, depth: int) -> None:
    """Each shipped pack fills all its placeholders and names itself and its hash."""
    free = replace(FIGURES, sub_input_nano_usd_per_mtok=0, sub_output_nano_usd_per_mtok=0)
    prompt = render(read_pack(name), replace(FIGURES if priced else free, depth=depth))
    assert "<<" not in prompt.system
    assert prompt.pack == f"{name}@{read_pack(name).version}"
    assert prompt.sha256 == hashlib.sha256(prompt.system.encode()).hexdigest()
    assert "17 turns" in prompt.system


@pytest.mark.parametrize("name", PACKS)
def test_the_code_of_every_example_is_python_in_runnable_fences(name: str) -> None:
    """A model that copies the example's form gets its code run."""
    pack = read_pack(name)
    for section in (pack.contract, pack.example):
        blocks = parse(section).blocks
        assert blocks
        for block in blocks:
            compile(block, name, "exec")


def test_figures_come_from_the_run() -> None:
    """Windows, prices and limits are those of the run, not of the author."""
    system = render(read_pack("default"), FIGURES).system
    assert "local/qwen3" in system
    assert "32,000 tokens" in system
    assert "about 51,200 characters" in system
    assert "$0.0038" in system
    assert "$0.50 in all" in system
    assert "at most 321 sub-calls" in system


def test_child_runs_are_offered_only_where_they_can_be_had() -> None:
    """At the deepest level the prompt says that `rlm_query` is `llm_query`."""
    pack = read_pack("default")
    assert "up to 1 level(s) below" in render(pack, FIGURES).system
    assert "not available" in render(pack, replace(FIGURES, depth=1)).system


def test_the_answer_section_follows_the_schema() -> None:
    """A run with a schema is told to submit JSON."""
    assert "must be JSON" in render(read_pack("default"), replace(FIGURES, answer_is_json=True)).system


def test_the_same_figures_give_the_same_bytes() -> None:
    """The hash that is kept with a run identifies what the model was told."""
    assert render(read_pack("small"), FIGURES) == render(read_pack("small"), FIGURES)


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("name = ", "must be TOML"),
        ('name = "x"', "needs all sections; missing: version"),
        ('colour = "x"', "no section 'colour'"),
        ("name = 3", "section 'name' of a prompt pack must be str, found int"),
        ('contract = "<<wishes>>"', "nothing fills <<wishes>>"),
    ],
)
def test_a_broken_pack_is_refused_with_its_fault(toml: str, complaint: str) -> None:
    """An operator's pack is checked when it is read, not when a run is under way."""
    with pytest.raises(BadRequest, match=complaint):
        parse_pack(toml)


def test_a_chunk_must_be_a_share_of_the_window() -> None:
    """Percentages outside 1 to 100 are refused."""
    with pytest.raises(BadRequest, match="chunk_percent"):
        parse_pack("chunk_percent = 0", base=read_pack("default"))


def test_an_unknown_pack_is_refused_by_name() -> None:
    """The message names the packs there are."""
    with pytest.raises(BadRequest, match="default, small, frugal"):
        read_pack("../secrets")
