"""Sessions that nobody uses."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import Limits
from service.runs.sessions.idling import IdlePatience, Rest, rest_of
from tests.runs.playing import repl, stage

PATIENCE = IdlePatience(pause_s=60.0, end_s=1800.0)


@given(st.floats(min_value=0, max_value=1e6), st.booleans())
def test_what_is_due(idle_s: float, is_paused: bool) -> None:
    """Ended once the longer patience is over, paused once between the two, else left alone; never without patience."""
    found = rest_of(idle_s, is_paused=is_paused, patience=PATIENCE)
    assert (found is Rest.END) == (idle_s >= 1800)
    assert (found is Rest.PAUSE) == (60 <= idle_s < 1800 and not is_paused)
    assert rest_of(idle_s, is_paused=is_paused, patience=IdlePatience(pause_s=None, end_s=None)) is Rest.NONE


@pytest.mark.anyio
async def test_an_idle_session_gives_its_sandbox_up_and_gets_its_variables_back(tmp_path: Path) -> None:
    """Before its time nothing happens; after it sandbox, slot and all memory of it are gone; the next run finds what
    the first one left, in another generation."""
    first = repl("kept = len(context)\nanswer['content'] = 'first'\nanswer['ready'] = True")
    second = repl("answer['content'] = kept\nanswer['ready'] = True")
    settings = {"RLM_SANDBOX_SLOTS": "1", "RLM_WARM_SANDBOXES": "0", "RLM_SESSION_PAUSE_S": "0"}
    async with stage(tmp_path, first, second, settings=settings) as on:
        kept, limits = on.service.tenancy.kept, Limits(depth=0, first_turn_final_is_questioned=False)
        session_id = await on.service.runs.open_session()
        await on.play(await on.request("four", limits, session_id))
        session = kept.by_id[session_id].session
        sandbox = session.sandbox
        assert sandbox is not None
        patient = IdlePatience(pause_s=None, end_s=1e6)
        await kept.rest(patient, time.monotonic())
        assert session.sandbox is sandbox
        await kept.rest(patient, time.monotonic() + 1e6)
        assert session_id not in kept.by_id
        assert not sandbox.is_running
        played = await on.play(await on.request("four", limits, session_id))
        assert played.answer == b"4"
        opened = kept.by_id[session_id].session.opened
        assert opened is not sandbox
        assert opened.generation == 2
