"""No input makes a parser of hostile input raise what it may not raise, or give what it must not give."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzing.mutations import mutated
from tests.fuzzing.targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(name: str, data: bytes) -> None:
    """Bytes without any form."""
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None)
@given(dice=st.integers(0, 2**32))
def test_what_nearly_fits_is_parsed_or_refused(name: str, dice: int) -> None:
    """Good input with some of it changed, repeated or cut out."""
    TARGETS[name](mutated(random.Random(dice), SEEDS[name]))


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_parsed_or_refused(name: str) -> None:
    """Good input, and what looks like it."""
    for seed in SEEDS[name]:
        TARGETS[name](seed)
