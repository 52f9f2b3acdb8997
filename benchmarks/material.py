"""What contexts are made of: plain ASCII text in lines, the same bytes for both sides."""

from pathlib import Path

MB = 1_000_000
GB = 1_000_000_000
LINE = b"%012d the quick brown fox jumps over the lazy dog, and nobody is there to see it or to be quick\n"
LINE_BYTES = len(LINE % 0)
_LINES_AT_ONCE = 10_000


def write_text(path: Path, size_bytes: int) -> Path:
    """A text of exactly that many bytes, and as many characters."""
    written = number = 0
    with path.open("wb") as file:
        while written < size_bytes:
            block = b"".join(LINE % at for at in range(number, number + _LINES_AT_ONCE))[: size_bytes - written]
            file.write(block)
            written += len(block)
            number += _LINES_AT_ONCE
    return path
