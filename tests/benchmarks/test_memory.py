"""What /proc says of memory."""

from benchmarks.memory import available_bytes, field_bytes, forecast

TEXT = "Rss:    100 kB\nPss:                  12 kB\nPss_Dirty: 3 kB\nSwapPss: 7 kB\n"


def test_a_field_is_read_in_bytes_and_not_mistaken_for_another() -> None:
    """`Pss` is not `Pss_Dirty`, and kB are 1024 bytes; a field that is not there counts nothing."""
    assert field_bytes(TEXT, "Pss") == 12 << 10
    assert field_bytes(TEXT, "Pss_Shmem") == 0


def test_this_machine_has_memory() -> None:
    """What is available is a positive number of bytes."""
    assert available_bytes() > 1 << 20


def test_a_forecast_tells_sharing_from_copying() -> None:
    """Four sessions that share a gigabyte promise little more for fifty; four that copy it promise fifty."""
    shared = [1_010, 1_020, 1_030, 1_040]
    copied = [1_000, 2_000, 3_000, 4_000]
    assert forecast(shared, 50) == 1_500
    assert forecast(copied, 50) == 50_000
