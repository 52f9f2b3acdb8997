"""Requests are decoded strictly."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image import protocol
from sandbox_image.decoding import NotThatShape, decode_value, parse_json
from sandbox_image.http_stream import encode_json

CELL = {"code": "1", "active_limit_s": 1, "wall_limit_s": 2.5, "grace_s": 1}
REQUESTS = (
    st.builds(protocol.ClaimRequest)
    | st.builds(protocol.BindRequest)
    | st.builds(protocol.InterruptRequest)
    | st.builds(
        protocol.CellRequest, active_limit_s=st.floats(0, 9), wall_limit_s=st.floats(0, 9), grace_s=st.floats(0, 9)
    )
    | st.builds(protocol.AnswerReply)
)


@given(REQUESTS)
def test_what_is_encoded_is_decoded(request: Any) -> None:
    """Every request survives the wire unchanged."""
    assert decode_value(type(request), parse_json(encode_json(asdict(request)))) == request


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"code": 1}, "CellRequest.code"),
        ({"code": None}, "CellRequest.code"),
        ({"active_limit_s": True}, "active_limit_s"),
        ({"active_limit_s": "1"}, "active_limit_s"),
        ({"answer_as": "xml"}, "text, json"),
        ({"acknowledges": 3}, "acknowledges"),
        ({"unheard_of": 3}, "unheard_of"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    """A field that is unknown or of another type is refused by name."""
    with pytest.raises(NotThatShape, match=field):
        decode_value(protocol.CellRequest, CELL | change)


def test_a_missing_field_is_named() -> None:
    """A field without a default must be there."""
    with pytest.raises(NotThatShape, match="'code'"):
        decode_value(protocol.CellRequest, {name: value for name, value in CELL.items() if name != "code"})


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_json_or_refused(body: bytes) -> None:
    """No body raises anything but the refusal."""
    try:
        value = parse_json(body)
        decode_value(protocol.GrantRequest, value)
    except NotThatShape:
        pass


@pytest.mark.parametrize("body", [b"NaN", b"[Infinity]", b"[" * 100_000, b'"\xff"', b"1" * 10_000])
def test_json_beyond_the_rfc_is_refused(body: bytes) -> None:
    """NaN, bottomless nesting, broken UTF-8 and endless numbers are not JSON here."""
    with pytest.raises(NotThatShape):
        parse_json(body)
