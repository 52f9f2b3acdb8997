"""Seeds with changes: what nearly fits goes deeper into a parser than what does not."""

import random
from collections.abc import Sequence

_INTERESTING = (b"\0", b"\xff", b"\r\n", b"-1", b"1e999", b"NaN", b"..", b"/", b'"', b"[" * 50, b"{" * 50, b"9" * 40)
_MOST_BYTES = 20_000


def mutated(dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to eight changes."""
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, 8)):
        start = dice.randint(0, len(data))
        end = min(len(data), start + dice.randint(0, 16))
        match dice.randrange(4):
            case 0:
                data[start:end] = dice.randbytes(dice.randint(0, 8))
            case 1:
                data[start:start] = bytes(data[start:end]) * dice.randint(1, 20)
            case 2:
                del data[start:end]
            case _:
                data[start:start] = dice.choice(_INTERESTING)
    return bytes(data[:_MOST_BYTES])
