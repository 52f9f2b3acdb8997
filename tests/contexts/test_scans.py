"""Scans: what they count and refuse does not depend on how the payload was cut into pieces."""

import json
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contexts.scans import Facts, JsonLinesScan, Scan, TextScan
from service.errors import BadRequest
from service.loop.values import PREVIEW_CHARS


def cuts(whole: bytes, places: Sequence[int]) -> list[bytes]:
    """The payload cut at some places."""
    ends = sorted({place % (len(whole) + 1) for place in places} | {len(whole)})
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def scan(scanner: Scan, pieces: Sequence[bytes]) -> Facts:
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=400), places=PLACES)
def test_text_is_counted_in_characters(text: str, places: list[int]) -> None:
    """However a text is cut, even within a character, its length and beginning are those of the whole."""
    facts = scan(TextScan("t"), cuts(text.encode(), places))
    assert facts == Facts(type_name="str", length=len(text), unit="characters", preview=text[:PREVIEW_CHARS])


@given(
    data=st.binary(max_size=60),
    prefix=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    places=PLACES,
)
def test_what_is_not_text_is_refused_where_it_stops_being_text(data: bytes, prefix: str, places: list[int]) -> None:
    """Bytes are refused exactly when they are not UTF-8 or hold a NUL, at the offset of the first offence."""
    whole = prefix.encode() + data
    try:
        whole.decode()
        offset = whole.find(0)
    except UnicodeDecodeError as error:
        nul = whole.find(0)
        offset = min(nul, error.start) if nul >= 0 else error.start
    if offset < 0:
        scan(TextScan("file.bin"), cuts(whole, places))
        return
    with pytest.raises(BadRequest) as refused:
        scan(TextScan("file.bin"), cuts(whole, places))
    assert "file.bin" in str(refused.value)
    found = refused.value.data["offset"]
    assert isinstance(found, int)
    if 0 not in whole:
        assert found == offset


@pytest.mark.parametrize(
    ("payload", "offset"),
    [(b"\x7fELF\0\1", 4), (b"caf\xe9 au lait", 3), ("ö".encode()[:1], 0), (b"ok\xed\xa0\x80", 2), (b"\xff\xfea\0", 3)],
)
def test_binary_is_refused_in_one_clear_sentence(payload: bytes, offset: int) -> None:
    """The sentence names the file, what was found, where, and what to do."""
    with pytest.raises(BadRequest, match=rf"^x: expected text in UTF-8, found .* at byte {offset}; convert it"):
        scan(TextScan("x"), [payload])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    values=st.lists(JSON_VALUES, max_size=8), places=PLACES, ending=st.sampled_from(["\n", "\r\n"]), last=st.booleans()
)
def test_json_lines_are_counted(values: list[object], places: list[int], ending: str, last: bool) -> None:
    """One value a line, with either line ending, with or without a last one, blank lines aside."""
    lines = ending.join([json.dumps(value) for value in values] + ([""] if last else []))
    facts = scan(JsonLinesScan("j"), cuts((ending + lines).encode(), places))
    assert facts.length == len(values)


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"1\n"])
@pytest.mark.takes_long
def test_lines_without_number_take_no_memory(line: bytes) -> None:
    """A chunk of nothing but line ends, or of the shortest values, is looked at line by line: what is held besides does
    not grow with it, and lines count on behind them."""
    chunk, times = line * 200_000, 3
    scanned = JsonLinesScan("j")
    tracemalloc.start()
    try:
        for _ in range(times):
            scanned.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    with pytest.raises(BadRequest) as refused:
        scanned.feed(b"nonsense\n")
    assert refused.value.data["line"] == times * 200_000 + 1
    assert scanned.finish().length == (times * 200_000 if b"1" in line else 0)


@pytest.mark.parametrize(
    ("payload", "line", "why"),
    [
        (b'{"a": 1}\n{"a": \n', 2, "not JSON"),
        (b"1\n\n2 3\n", 3, "not JSON"),
        (b"1\nNaN", 2, "holds NaN"),
        (b'"\xff"\n1', 1, "not UTF-8"),
        (b"1\n" + b"[" * 100_000, 2, "nested too deeply"),
    ],
)
def test_a_line_that_is_not_json_is_named(payload: bytes, line: int, why: str) -> None:
    """The sentence names the file, the line and what is wrong with it."""
    with pytest.raises(BadRequest, match=rf"^j: .* line {line} .*{why}") as refused:
        scan(JsonLinesScan("j"), [payload])
    assert refused.value.data == {"name": "j", "line": line}
