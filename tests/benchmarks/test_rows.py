"""Samples become rows, rows become lines and a table."""

import json
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rows import RATES, as_line, row_of, table

FIGURES = st.floats(min_value=1e-6, max_value=1e9)


@pytest.mark.parametrize(
    ("unit", "ours", "other", "ratio"), [("ms", 2.0, 10.0, 5.0), ("runs/s", 10.0, 2.0, 5.0), ("MB", 50.0, 100.0, 2.0)]
)
def test_the_ratio_says_how_many_times_better_ours_is(unit: str, ours: float, other: float, ratio: float) -> None:
    """Of times and sizes less is better, of rates more."""
    assert row_of("any", unit, [ours], [other]).ratio == pytest.approx(ratio)


@given(st.sampled_from(["ms", "MB", *sorted(RATES)]), st.lists(FIGURES, min_size=1), st.lists(FIGURES, min_size=1))
def test_a_row_compares_medians_and_swapping_the_sides_inverts_it(
    unit: str, ours: list[float], other: list[float]
) -> None:
    """A row's figures are medians, `n` counts our samples, and the ratio is above one exactly when ours is better."""
    row, swapped = row_of("any", unit, ours, other), row_of("any", unit, other, ours)
    assert (row.ours, row.other, row.n) == (median(ours), median(other), len(ours))
    assert row.ratio * swapped.ratio == pytest.approx(1.0)
    assert (row.ratio > 1) == ((row.ours > row.other) if unit in RATES else (row.ours < row.other))


def test_a_row_without_samples_is_refused() -> None:
    """A side that was not measured gives no row."""
    with pytest.raises(ValueError, match="expected samples of both sides"):
        row_of("any", "ms", [1.0], [])


@given(FIGURES, FIGURES)
def test_a_line_is_one_json_object_with_the_promised_keys(ours: float, other: float) -> None:
    """Whatever was measured, a line can be read back, to four digits."""
    line = as_line(row_of("any", "ms", [ours], [other], n=7))
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == ["name", "unit", "ours", "other", "ratio", "n"]
    assert found["ours"] == pytest.approx(ours, rel=1e-3)
    assert found["n"] == 7


def test_a_rate_of_nothing_is_still_json() -> None:
    """A side that managed nothing in its window gives a ratio without a number, not invalid JSON."""
    row = row_of("any", "runs/s", [5.0], [0.0])
    assert json.loads(as_line(row))["ratio"] is None
    assert "∞ ×" in table([row])


def test_the_table_has_a_line_for_each_row_and_its_columns_stand_under_each_other() -> None:
    """People compare down a column."""
    rows = [row_of("short", "ms", [1.0], [2.0]), row_of("a_much_longer_name", "runs/s", [12345.0], [0.01])]
    header, rule, *lines = table(rows).splitlines()
    assert header.split() == ["name", "unit", "ours", "other", "ratio", "n"]
    assert [line.split()[0] for line in lines] == ["short", "a_much_longer_name"]
    assert {len(line) for line in (header, rule, *lines)} == {len(rule)}
