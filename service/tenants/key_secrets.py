"""What an API key looks like: `rlm_<id>_<secret><crc>`. Pure but for the randomness of a new one.

The id finds the record, so that one comparison decides. The secret is 32 random bytes as 43 base62 digits. The check
sum is the CRC-32 of everything before it as 6 base62 digits: a mistyped or made-up key is refused before any store
read, and scanners for leaked secrets can tell a real one. Decision: docs/decisions/0006.
"""

import re
import secrets
import zlib
from dataclasses import dataclass, field

from service.ids import KeyId
from service.tenants.key_files import KeyFile

SECRET_DIGITS = 43
CRC_DIGITS = 6
LONGEST = 128
"""Anything longer is no key and is not looked at."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(r"rlm_([0-9a-f]{32})_[0-9A-Za-z]{49}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeySecret:
    """A well-formed key as its holder has it. `text` is the secret: never log, never store."""

    key_id: KeyId
    text: str = field(repr=False)

    def mac(self, pepper: KeyFile) -> str:
        """What is stored of it."""
        return pepper.mac("api-key", self.text.encode()).hex()


def new_secret(key_id: KeyId) -> KeySecret:
    body = f"rlm_{key_id.removeprefix('key_')}_{_base62(secrets.randbits(256), SECRET_DIGITS)}"
    return KeySecret(key_id, body + _check_sum(body))


def parse_secret(text: str) -> KeySecret | None:
    """None for what cannot be a key."""
    if len(text) > LONGEST or (found := _FORM.fullmatch(text)) is None:
        return None
    if _check_sum(text[:-CRC_DIGITS]) != text[-CRC_DIGITS:]:
        return None
    return KeySecret(KeyId(f"key_{found[1]}"), text)


def _check_sum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CRC_DIGITS)


def _base62(number: int, digits: int) -> str:
    found = []
    for _ in range(digits):
        number, digit = divmod(number, 62)
        found.append(_DIGITS[digit])
    return "".join(reversed(found))
