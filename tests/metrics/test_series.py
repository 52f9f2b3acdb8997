"""How metrics are told."""

from service.metrics.series import MOST_SERIES, OTHER, Counter, Gauge, Histogram, exposition


def test_counts_are_told_as_prometheus_reads_them() -> None:
    """Help, type, then a line for each series, sorted; a label's value cannot break out of its quotes."""
    counter = Counter("rlm_things_total", "Things.", ("kind",))
    counter.add("b")
    counter.add('a"\n\\', amount=3)
    gauge = Gauge("rlm_now", "Now.", (), lambda: {(): 2.5})
    assert exposition([counter, gauge]) == (
        "# HELP rlm_things_total Things.\n# TYPE rlm_things_total counter\n"
        'rlm_things_total{kind="a\\"\\n\\\\"} 3\nrlm_things_total{kind="b"} 1\n'
        "# HELP rlm_now Now.\n# TYPE rlm_now gauge\nrlm_now 2.5\n"
    )


def test_a_histogram_counts_up_to_each_bound() -> None:
    """Buckets are cumulative, a bound belongs to its bucket, and the last one has everything."""
    histogram = Histogram("rlm_seconds", "S.", ("route",), (0.1, 1.0))
    for seconds in (0.1, 0.5, 7.0):
        histogram.note("/x", seconds=seconds)
    assert list(histogram.lines())[2:] == [
        'rlm_seconds_bucket{route="/x",le="0.1"} 1',
        'rlm_seconds_bucket{route="/x",le="1"} 2',
        'rlm_seconds_bucket{route="/x",le="+Inf"} 3',
        'rlm_seconds_sum{route="/x"} 7.600000',
        'rlm_seconds_count{route="/x"} 3',
    ]


def test_a_metric_has_so_many_series_and_no_more() -> None:
    """What comes beyond is counted together, so that no label can fill the memory."""
    counter = Counter("rlm_x_total", "X.", ("a", "b"))
    for number in range(MOST_SERIES + 10):
        counter.add(str(number), "b")
    lines = list(counter.lines())
    assert len(lines) == 2 + MOST_SERIES + 1
    assert f'rlm_x_total{{a="{OTHER}",b="{OTHER}"}} 10' in lines
