"""The installation's own secrets: 32 random bytes each, in a file for its owner only.

The *pepper* is mixed into what is stored of API keys, so that the store alone does not let anybody try secrets; the
*vault key* encrypts the keys that tenants leave for model providers. Losing one of them makes what was written with it
useless and nothing else: new API keys, or new provider keys, have to be made.
"""

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import BadRequest

SECRET_BYTES = 32
LARGEST_FILE = 4096


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A secret of the installation, and what is derived from it."""

    secret: bytes = field(repr=False)

    def mac(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SHA-256 under a key that is derived for the purpose, so that no use can stand in for another."""
        derived = hmac.digest(self.secret, purpose.encode(), hashlib.sha256)
        return hmac.digest(derived, data, hashlib.sha256)


def open_key_file(path: Path, *, setting: str, is_ours: bool) -> KeyFile:
    """Read the secret, or make it at the first start. Blocking. Safe between processes that start at once.

    Args:
        path: where it stands.
        setting: what the operator would change; for messages.
        is_ours: whether to make it when it is not there. One that the operator named is only read.

    Raises:
        BadRequest: it cannot be read, is open to others, or is too short to be a secret.
    """
    try:
        if is_ours and not path.exists():
            _make(path)
        return KeyFile(_read(path, setting))
    except OSError as error:
        raise BadRequest(f"the key file {path} cannot be used ({error.strerror}): see {setting}") from error


def _make(path: Path) -> None:
    """Under its name stands a whole secret or none: it is written elsewhere and linked, and the first one stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SECRET_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink()


def _read(path: Path, setting: str) -> bytes:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise BadRequest(f"the key file {path} is no regular file: see {setting}")
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            raise BadRequest(f"the key file {path} is open to others: chmod 600 it and make a new secret ({setting})")
        content = file.read(LARGEST_FILE + 1)
    text = content.strip()
    if len(content) > LARGEST_FILE or len(text) < SECRET_BYTES:
        raise BadRequest(
            f"the key file {path} must hold {SECRET_BYTES} to {LARGEST_FILE} bytes, such as `openssl rand -hex 32` "
            f"prints, found {len(text)}: see {setting}"
        )
    return hashlib.sha256(text).digest()
