"""`repr` under a bound."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.echo import bounded_repr

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=10)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.sets(st.integers(), max_size=4)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_fits_is_repr(value: Any) -> None:
    """A value that fits is shown as `repr` shows it."""
    assert bounded_repr(value) == repr(value)


@given(VALUES, st.integers(0, 50))
def test_what_does_not_fit_is_bounded(value: Any, limit: int) -> None:
    """The length of what is shown has a bound that does not depend on the value's size."""
    assert len(bounded_repr([value] * 1000, limit)) < 100_000


def test_a_loop_in_a_container_ends() -> None:
    """A list that contains itself is shown with an ellipsis."""
    loop: list[Any] = [1]
    loop.append(loop)
    assert bounded_repr(loop) == "[1, [...]]"


def test_a_long_text_shows_both_ends_and_its_length() -> None:
    """Head, tail and true length of a text that does not fit."""
    shown = bounded_repr("a" * 1_000_000 + "z", 1000)
    assert shown.startswith("'aaa")
    assert shown.endswith("az' (1000001 characters in all)")
    assert len(shown) < 1200
