"""A replica that dies at any of its requests to the store: another one finishes the run as if nothing had happened."""

import random
from pathlib import Path

import anyio
import pytest

from service.loop.values import StopReason
from tests.runs.recovery.crashing import ANSWER, CrashPoint, Side, end_of, world

pytestmark = pytest.mark.anyio

LEAST, MOST = 86, 105
"""Requests of an undisturbed run. Some go out together or one by one, as it happens; what lies behind the end of a
run kills nobody, and is an undisturbed run too."""
SEED = 20_261_120
SAMPLE = [(random.Random(SEED + n).randrange(1, LEAST), ("before", "after")[n % 2]) for n in range(6)]


async def die_and_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int | None, side: Side) -> int:
    """Kill a replica there, let another one finish its run, and look at everything; how many requests it made."""
    async with world(tmp_path) as it:
        point = CrashPoint(at=at, side=side)
        async with it.replica(monkeypatch, point) as first:
            session_id = await first.runs.open_session()
            run_id = await first.runs.submit(await it.request(first, session_id))
            point.is_counting = True
            first.runs.start(run_id)
            await end_of(it, run_id)
            point.is_counting = False
        await it.lapse(run_id)
        async with it.replica(monkeypatch, CrashPoint()) as second:
            finished = await end_of(it, run_id)
            answer = b"".join([chunk async for chunk in second.runs.answer_chunks(run_id)]).decode()
            assert point.is_dead or at is None or at > LEAST, f"{at} is not reached: {point.requests} requests"
            assert (finished.stop_reason, answer) == (StopReason.ANSWERED, ANSWER), finished.message
            await it.check_books(run_id)
            with anyio.fail_after(60):
                while second.runs.live:
                    await anyio.lowlevel.checkpoint()
        assert await it.store.read("ZCARD", "rlm:{default}:runs:unfinished") == 0
        assert await it.store.read("ZCARD", "rlm:{default}:holds") == 0
        return point.requests


async def test_the_points_are_those_of_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An undisturbed run makes at least `LEAST` requests, so that each of these kills, and at most `MOST`, so that
    none is left out."""
    requests = await die_and_go_on(tmp_path, monkeypatch, None, "before")
    assert LEAST <= requests <= MOST


@pytest.mark.parametrize(("at", "side"), SAMPLE)
async def test_some_crash_points(at: int, side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At points drawn by a seed: the same answer, no result asked for twice, no hold left, the books balanced."""
    await die_and_go_on(tmp_path, monkeypatch, at, side)


@pytest.mark.takes_long
@pytest.mark.parametrize("at", range(1, MOST + 1))
async def test_every_crash_point(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every request, before or behind it in turn (behind one and before the next is nearly the same): as above."""
    await die_and_go_on(tmp_path, monkeypatch, at, ("before", "after")[at % 2])
