"""Active time and the ladder from limit to kill."""

import os
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.clock import Act, ActiveClock, Ladder, Limits, climb, next_look_s
from sandbox_image.linux import Linux


@given(
    looks=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3), st.booleans()), max_size=40),
    active=st.floats(0.1, 20),
    wall=st.floats(0.1, 20),
    grace=st.floats(0.1, 10),
)
def test_the_ladder_only_goes_up(
    looks: list[tuple[float, float, bool]], active: float, wall: float, grace: float
) -> None:
    """Whatever the clocks do: nothing before a reason, an interrupt first, at most two of them, a kill not before the
    grace is over."""
    limits, ladder, acts = Limits(active_s=active, wall_s=wall, grace_s=grace), Ladder(), []
    wall_s = active_s = 0.0
    for more_wall, more_active, asked in looks:
        wall_s, active_s = wall_s + more_wall, active_s + more_active
        ladder, act = climb(ladder, limits, wall_s=wall_s, active_s=active_s, asked=asked)
        if act is not Act.NOTHING:
            acts.append(act)
        if act is Act.KILL:
            assert wall_s - ladder.interrupted_at >= grace
            break
        assert next_look_s(ladder, limits, wall_s=wall_s, active_s=active_s) >= 0
    assert acts in (
        [],
        [Act.INTERRUPT],
        [Act.INTERRUPT] * 2,
        [Act.INTERRUPT, Act.KILL],
        [Act.INTERRUPT] * 2 + [Act.KILL],
    )


@pytest.mark.parametrize(
    ("wall_s", "active_s", "asked", "reason"),
    [(1, 1, False, None), (1, 5, False, "active_limit"), (9, 1, False, "wall_limit"), (1, 1, True, "interrupted")],
)
def test_each_reason_is_named(wall_s: float, active_s: float, asked: bool, reason: str | None) -> None:
    """The ladder says why it began."""
    limits = Limits(active_s=5, wall_s=9, grace_s=1)
    assert climb(Ladder(), limits, wall_s=wall_s, active_s=active_s, asked=asked)[0].reason == reason


def test_waiting_is_not_active_but_spinning_is() -> None:
    """Time with a host call in flight does not count, unless the process burns CPU meanwhile."""
    clock = ActiveClock(partial(Linux().process_cpu_s, os.getpid()))
    clock.begin_wait()
    clock.begin_wait()
    clock.end_wait()
    while clock.cpu_s() < 0.05:
        pass
    assert clock.active_s() >= 0.05
    gone = ActiveClock(partial(Linux().process_cpu_s, 2**22 - 2))
    gone.begin_wait()
    while gone.wall_s() < 0.02:
        pass
    assert gone.active_s() < gone.wall_s() / 2
    gone.end_wait()
