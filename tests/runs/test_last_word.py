"""The last word of a run that broke off: never at the expense of other runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.runs.driving.last_word import say_last_word
from tests.runs.playing import repl, stage

pytestmark = pytest.mark.anyio


def stopped_clock() -> float:
    raise ArithmeticError("the clock has stopped")


async def test_a_defect_in_the_last_word_stays_with_its_run(tmp_path: Path) -> None:
    """When saying it fails by a defect nothing is raised, and the run stays unfinished in the store."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        await say_last_word(replace(on.service.runs.rooms, now=stopped_clock), run_id, ValueError("lost"), None)
        assert (await on.service.runs.show(run_id)).stop_reason is None
