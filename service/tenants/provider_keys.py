"""A tenant's own keys for model providers: left here encrypted, used for its calls, never shown again.

A key is encrypted with AES-256-GCM under the installation's vault key. Tenant and provider are bound to it as
associated data, so that a stored key moved to another tenant or provider decrypts to nothing. What is shown of it are
its last four characters.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import TypeAdapter

from service.errors import BadRequest, NotFound
from service.ids import TenantId
from service.store.connection import Store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.tenants.audit import AuditLog, author_name, deed
from service.tenants.errors import QuotaExceeded
from service.tenants.key_files import KeyFile
from service.tenants.recent import Recent
from service.tenants.values import Author

MOST_PROVIDERS = 50
SHORTEST_KEY = 8
LONGEST_KEY = 4096
NONCE_BYTES = 12
REMEMBERED_S = 1.0
"""How long a replica goes on using a key that was replaced or taken away."""

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKey:
    """What may be shown of a provider key."""

    provider: str
    last_four: str
    created_at: float
    by: str
    """The id of the API key that left it, or `operator`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    shown: ProviderKey
    nonce_hex: str
    sealed_hex: str


_SEALED = TypeAdapter(_Sealed)


class ProviderKeys:
    """The provider keys of one tenant."""

    def __init__(
        self,
        store: Store,
        vault: KeyFile,
        log: AuditLog,
        tenant: TenantId,
        now: Callable[[], float],
        *,
        is_provider: Callable[[str], bool],
        most_providers: int = MOST_PROVIDERS,
    ) -> None:
        """`is_provider` is asked by which names of providers a key is ever looked for."""
        self._most_providers = most_providers
        self._store = store
        self._log = log
        self._cipher = AESGCM(vault.mac("provider-keys", b"AES-256-GCM"))
        self._tenant = tenant
        self._key = Keys(tenant)("provider_keys")
        self._now = now
        self._is_provider = is_provider
        self._recent: Recent[None, Mapping[str, str]] = Recent(1, REMEMBERED_S, now)

    def __repr__(self) -> str:
        return f"<ProviderKeys of {self._tenant}>"

    async def put(self, provider: str, key: str, *, by: Author) -> ProviderKey:
        """Keep a key for a provider, in place of the one before.

        Args:
            provider: `openai`, `anthropic`, or as in `litellm/PROVIDER/…`.
            key: what the provider gave out.
            by: who leaves it.

        Raises:
            BadRequest: the provider's name or the key cannot be used.
            QuotaExceeded: there are keys for the most providers that there may be.
        """
        _check_provider(provider)
        if not self._is_provider(provider):
            raise BadRequest(
                f"no call would ever use a key for {provider!r}: name openai, anthropic, or a provider of LiteLLM's "
                "such as gemini",
                data={"param": "provider"},
            )
        key = key.strip()
        if not SHORTEST_KEY <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise BadRequest(
                f"a provider key must be {SHORTEST_KEY} to {LONGEST_KEY} printable ASCII characters without spaces"
            )
        known = await self._store.read("HKEYS", self._key)
        assert isinstance(known, list)
        if provider.encode() not in known and len(known) >= self._most_providers:
            raise QuotaExceeded(f"a tenant keeps keys for at most {self._most_providers} providers: delete some")
        shown = ProviderKey(provider=provider, last_four=key[-4:], created_at=self._now(), by=author_name(by))
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, key.encode(), self._bound_to(provider))
        record = _Sealed(shown=shown, nonce_hex=nonce.hex(), sealed_hex=sealed.hex())
        await self._store.leave(("HSET", self._key, provider, _SEALED.dump_json(record)))
        self._recent.clear()
        await self._log.record(deed("provider_key.left", provider, by, last_four=shown.last_four))
        return shown

    async def shown(self) -> list[ProviderKey]:
        """What there is, by provider."""
        return [record.shown for _, record in sorted((await self._records()).items())]

    async def delete(self, provider: str, *, by: Author) -> None:
        """Forget a key. Raises `NotFound`."""
        _check_provider(provider)
        gone = await self._store.write("HDEL", self._key, provider)
        self._recent.clear()
        if not gone:
            raise NotFound(f"there is no key for the provider {provider!r}")
        await self._log.record(deed("provider_key.deleted", provider, by))

    async def opened(self) -> Mapping[str, str]:
        """Provider → key, for the calls of this tenant and nothing else.

        Raises:
            StoreFailed: a key cannot be decrypted: the vault key is another one, or the record was tampered with.
        """
        found = self._recent.get(None)
        if found is None:
            records = await self._records()
            found = {provider: self._open(provider, record) for provider, record in records.items()}
            self._recent.put(None, found)
        return found

    async def _records(self) -> dict[str, _Sealed]:
        flat = await self._store.read("HGETALL", self._key)
        assert isinstance(flat, list)
        parts = [each for each in flat if isinstance(each, bytes)]
        return {
            provider.decode(): _SEALED.validate_json(record)
            for provider, record in zip(parts[::2], parts[1::2], strict=True)
        }

    def _open(self, provider: str, record: _Sealed) -> str:
        nonce, sealed = bytes.fromhex(record.nonce_hex), bytes.fromhex(record.sealed_hex)
        try:
            return self._cipher.decrypt(nonce, sealed, self._bound_to(provider)).decode()
        except InvalidTag as error:
            raise StoreFailed(
                f"the key of {self._tenant} for {provider} cannot be decrypted: was the vault key replaced "
                "(RLM_VAULT_KEY_FILE)? Leave the key anew"
            ) from error

    def _bound_to(self, provider: str) -> bytes:
        return f"{self._tenant}\n{provider}".encode()


def _check_provider(provider: str) -> None:
    if _PROVIDER.fullmatch(provider) is None:
        raise BadRequest(
            "a provider is named openai, anthropic, or as in litellm/PROVIDER/MODEL: lower-case letters, digits, _"
        )
