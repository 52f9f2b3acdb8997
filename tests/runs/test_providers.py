"""Whole runs over other protocols, and past providers that are down."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose, StopReason
from tests.runs.playing import ROOT, repl, stage

pytestmark = pytest.mark.anyio

CLAUDE = "anthropic/claude-sonnet-4-5"
TURNS = (repl("print('a' * 500)"), repl("print('b' * 500)"), repl("print('c' * 500)"), "FINAL(done)")


async def test_a_run_over_anthropics_protocol_reads_its_history_from_the_cache(tmp_path: Path) -> None:
    """Each turn reads what the turn before sent from the prefix cache, and the ledger books it at the cache's price."""
    async with stage(tmp_path, *TURNS) as on:
        played = await on.play(replace(await on.request("x" * 1000), root_model=CLAUDE))
        assert (played.finished.stop_reason, played.answer) == (StopReason.ANSWERED, b"done")
        turns = [event for event in played.events if isinstance(event, CallFinished) and event.purpose is Purpose.TURN]
        assert len(turns) == 4
        cached = [turn.usage.cached_input_tokens for turn in turns]
        assert cached[0] == 0
        assert cached == sorted(set(cached))
        assert all(turn.usage.cache_write_tokens for turn in turns)
        entries = await on.service.runs.rooms.ledger.entries(played.run_id)
        assert sum(entry.cached_input_tokens for entry in entries) == sum(cached)
        assert sum(entry.nano_usd for entry in entries) == sum(turn.cost for turn in turns)


async def test_a_run_goes_past_a_provider_that_is_down(tmp_path: Path) -> None:
    """A root LM that cannot be reached is left for its fallback, not asked anew for every turn, and the run answers."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = tmp_path / "rlm.toml"
        config.write_text(
            f'[models."down"]\nbase_url = "http://127.0.0.1:{nobody.getsockname()[1]}/v1"\nwindow_tokens = 100_000\n'
            f'input_usd_per_million = "1"\noutput_usd_per_million = "1"\nfallbacks = {json.dumps([ROOT])}\n'
        )
        async with stage(tmp_path, *TURNS, settings={"RLM_CONFIG": str(config)}) as on:
            played = await on.play(replace(await on.request("x"), root_model="down"))
    assert (played.finished.stop_reason, played.answer) == (StopReason.ANSWERED, b"done")
    calls = [event for event in played.events if isinstance(event, CallFinished)]
    assert [call.model for call in calls if call.outcome is CallOutcome.OK] == [ROOT] * 4
    failed = [call for call in calls if call.outcome is not CallOutcome.OK]
    assert {(call.model, call.outcome, call.cost) for call in failed} == {("down", CallOutcome.UNAVAILABLE, 0)}
    assert len(failed) < 4 * 4
