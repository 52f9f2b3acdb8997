"""API keys and the installation's own secrets, and what is made at the first start."""

import os
import time
from pathlib import Path

import anyio.to_thread

from service.errors import BadRequest
from service.settings import Settings
from service.store.connection import Store
from service.tenants.api_keys import ApiKeys
from service.tenants.key_files import open_key_file

ADMIN_KEY_FILE = "admin-key"


async def open_api_keys(settings: Settings, store: Store) -> ApiKeys:
    """All API keys of this installation.

    Raises:
        BadRequest: the secret that they are kept under cannot be read or made.
    """
    path = settings.data_directory / "pepper"
    pepper = await anyio.to_thread.run_sync(lambda: open_key_file(path, setting="RLM_DATA_DIR", is_ours=True))
    return ApiKeys(store, pepper, time.time)


async def make_first_key(settings: Settings, api_keys: ApiKeys) -> Path | None:
    """At the first start ever, the tenant `default` and one admin key, which stands in the file that is returned.

    Raises:
        BadRequest: the file cannot be written.
    """
    issued = await api_keys.first_key()
    if issued is None:
        return None
    path = settings.data_directory / ADMIN_KEY_FILE
    try:
        await anyio.to_thread.run_sync(_write, path, issued.secret)
    except OSError as exc:
        raise BadRequest(f"the first admin key cannot be kept in {path} ({exc.strerror}): set RLM_DATA_DIR") from exc
    return path


def _write(path: Path, secret: str) -> None:
    """Replaces one of an installation whose store is gone: that key opens nothing any more."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
