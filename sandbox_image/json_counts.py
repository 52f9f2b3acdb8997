"""How many values a JSON text has, told before it is decoded.

The decoder makes an object of each value, however small, and holds the interpreter's lock until it has made all of
them: 64 MB of `[],[],[],…` would be 20 million lists, gigabytes of memory, and seconds in which nobody else is
answered. Counting is done in small pieces and makes nothing that stays.
"""

PIECE_BYTES = 64 << 10


def count_values(payload: bytes, most: int) -> int:
    """How many values it has, counted to a little beyond `most` where there are more. Exact for JSON, but for empty
    lists and objects, which count twice; of what is no JSON it is some number.

    Each value but the first stands behind a comma or an opening bracket that is in no string. In strings, `\\\\` and
    `\\"` are taken out, and every quote that is left begins or ends one.
    """
    count, is_in_string, cut_off = 1, 0, b""
    for start in range(0, len(payload), PIECE_BYTES):
        piece = cut_off + payload[start : start + PIECE_BYTES]
        cut_off = b""
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece, cut_off = piece[:-1], b"\\"  # what it escapes is in the next piece
        by_quotes = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(by_quotes[is_in_string::2])
        is_in_string = (is_in_string + len(by_quotes) - 1) % 2
        count += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        if count > most:
            break
    return count
