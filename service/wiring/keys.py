"""API keys and the installation's own secrets, and what is made at the first start."""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread

from service.configuration.file import read_configuration
from service.errors import BadRequest
from service.models.entries import ModelEntry
from service.models.providers import has_keys
from service.settings import Settings
from service.store.connection import Store, open_store
from service.tenants.api_keys import ApiKeys, IssuedKey
from service.tenants.key_files import KeyFile, open_key_file
from service.tenants.registry import Registry, open_registry
from service.wiring.data_directory import make_data_directory

ADMIN_KEY_FILE = "admin-key"


async def open_registry_of(
    settings: Settings, store: Store, entries: Callable[[], Mapping[str, ModelEntry]]
) -> Registry:
    """Tenants, their keys and limits, in this store. `entries` are asked for when a provider key is left.

    Raises:
        BadRequest: a secret that they are kept under cannot be read or made.
    """
    pepper = await _key_file(settings, settings.key_pepper_file, "pepper", "RLM_KEY_PEPPER_FILE")
    vault = await _key_file(settings, settings.vault_key_file, "vault-key", "RLM_VAULT_KEY_FILE")
    return open_registry(
        store, pepper=pepper, vault=vault, now=time.time, is_provider=lambda name: has_keys(name, entries())
    )


async def _key_file(settings: Settings, given: Path | None, name: str, setting: str) -> KeyFile:
    path = given or settings.data_directory / name
    return await anyio.to_thread.run_sync(lambda: open_key_file(path, setting=setting, is_ours=given is None))


@asynccontextmanager
async def open_registry_alone(settings: Settings) -> AsyncIterator[Registry]:
    """The registry without the rest of the service, for commands of the operator.

    Raises:
        BadRequest: the data directory or a secret in it cannot be used.
        StoreFailed: no store can be reached or started.
    """
    make_data_directory(settings)
    async with open_store(data_directory=settings.data_directory, redis_url=settings.redis_url) as store:
        registry = await open_registry_of(settings, store, lambda: read_configuration(settings.config_file).models)
        await registry.tenants.ensure_default()
        yield registry


async def make_first_key(settings: Settings, api_keys: ApiKeys) -> Path | None:
    """At the first start ever, the tenant `default` and one admin key, which stands in the file that is returned.

    Raises:
        BadRequest: the file cannot be written.
    """
    path = settings.data_directory / ADMIN_KEY_FILE
    # Replicas that start together share the directory, and those in containers their process ids too.
    ahead = path.with_name(f".{path.name}.{os.urandom(8).hex()}")

    async def keep(issued: IssuedKey) -> None:
        await anyio.to_thread.run_sync(_write, ahead, issued.secret)

    try:
        if await api_keys.first_key(keep) is None:
            return None
        # Replaces one of an installation whose store is gone: that key opens nothing any more.
        ahead.rename(path)
    except OSError as exc:
        raise BadRequest(
            f"the first admin key cannot be kept in {path} ({exc.strerror}): set RLM_DATA_DIR to a directory that "
            "takes it; should the next start make none, `rlm-service keys create NAME --scope admin` does"
        ) from exc
    finally:
        ahead.unlink(missing_ok=True)
    return path


def _write(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
