"""What is kept of the answers that a run's host calls have had."""

from hypothesis import given
from hypothesis import strategies as st

from service.ids import CellId, RunId
from service.journal.values import Place
from service.loop.values import HostCallKey
from service.runs.host_calls.answers import LARGE_CHARS, Answers
from service.runs.host_calls.values import HostCallItem

SIZES = st.sampled_from([1, LARGE_CHARS, LARGE_CHARS + 1, 2 * LARGE_CHARS, 5 * LARGE_CHARS])
STEPS = st.lists(st.tuples(st.integers(0, 5), SIZES), max_size=30)
MOST_CHARS = 4 * LARGE_CHARS
PLACE = Place(run_id=RunId("run_1"), seq=1)


def key(number: int) -> HostCallKey:
    return HostCallKey(
        cell_id=CellId(f"run_1.t{number % 2}.b0"), function="llm_query", arguments_sha256=f"{number}", ordinal=0
    )


@given(STEPS)
def test_large_answers_are_kept_as_far_as_there_is_room(steps: list[tuple[int, int]]) -> None:
    """Whatever comes, large answers in memory have no more characters than they may; an answer that is kept is the last
    that there was, and of each other its place is known."""
    answers, last = Answers(MOST_CHARS), dict[HostCallKey, list[HostCallItem]]()
    for step in steps:
        items = [HostCallItem(value="x" * step[1])]
        last[key(step[0])] = items
        answers.keep(key(step[0]), items, PLACE)
        kept = {key: found for key in last if (found := answers.get(key)) is not None}
        assert sum(chars for items in kept.values() if (chars := len(items[0].value)) > LARGE_CHARS) <= MOST_CHARS
        assert all(found is last[key] for key, found in kept.items())
        assert all((key in kept) != (answers.place_of(key) == PLACE) for key in last)
        assert all(key in kept for key, items in last.items() if len(items[0].value) <= LARGE_CHARS)


def test_another_cell_takes_nothing_over() -> None:
    """What earlier cells were answered is forgotten, kept or not."""
    answers = Answers(MOST_CHARS)
    for number in range(4):
        answers.keep(key(number), [HostCallItem(value="x" * 3 * LARGE_CHARS)], PLACE)
    answers.keep_only(key(1).cell_id)
    found = [answers.get(key(number)) is not None or answers.place_of(key(number)) is not None for number in range(4)]
    assert found == [False, True, False, True]
    assert len(answers) == 2


def test_a_replay_keeps_all() -> None:
    """Without a bound nothing is let go."""
    answers = Answers(None)
    answers.keep(key(0), [HostCallItem(value="x" * 100 * LARGE_CHARS)], PLACE)
    assert answers.get(key(0)) is not None
