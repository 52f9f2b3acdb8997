"""What of the hard benchmarks can be decided without measuring."""

from benchmarks.hardships import percentile


def test_a_percentile_is_a_sample_that_few_are_above() -> None:
    """The 99th of a hundred is the second largest, of a few it is the largest."""
    hundred = [float(number) for number in range(100)]
    assert percentile(hundred, 0.99) == 98.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([5.0], 0.99) == 5.0
