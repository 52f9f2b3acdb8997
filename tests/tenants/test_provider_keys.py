"""Provider keys over a real store."""

import pytest

from service.errors import BadRequest, NotFound
from service.ids import TenantId, new_id
from service.store.errors import StoreFailed
from service.tenants.audit import AuditLogs
from service.tenants.errors import QuotaExceeded
from service.tenants.key_files import KeyFile
from service.tenants.provider_keys import MOST_PROVIDERS, REMEMBERED_S, ProviderKeys
from service.tenants.values import OPERATOR
from tests.clock import Clock
from tests.store_fixture import Stored
from tests.tenants.conftest import PEPPER

pytestmark = pytest.mark.anyio

VAULT = KeyFile(b"a vault key for tests")
BAIT = "sk-bait-0123456789"


def keys_of(
    stored: Stored, tenant: TenantId, vault: KeyFile, clock: Clock, most_providers: int = MOST_PROVIDERS
) -> ProviderKeys:
    return ProviderKeys(
        stored.store,
        vault,
        AuditLogs(stored.store, PEPPER, clock).of(tenant),
        tenant,
        clock,
        is_provider=lambda name: True,
        most_providers=most_providers,
    )


@pytest.fixture
def keys(stored: Stored, clock: Clock) -> ProviderKeys:
    return keys_of(stored, stored.tenant, VAULT, clock)


async def test_a_key_is_used_and_not_shown(stored: Stored, keys: ProviderKeys) -> None:
    """What was left is what calls get; whoever looks sees its last four characters, and the store holds none of it."""
    await keys.put("openai", f" {BAIT}\n", by=OPERATOR)
    assert await keys.opened() == {"openai": BAIT}
    assert [(each.provider, each.last_four) for each in await keys.shown()] == [("openai", "6789")]
    kept = await stored.store.read("HGETALL", f"rlm:{{{stored.tenant}}}:provider_keys")
    assert b"sk-bait" not in repr(kept).encode()


async def test_a_replaced_or_deleted_key_is_not_used_any_more(stored: Stored, keys: ProviderKeys, clock: Clock) -> None:
    """Within `REMEMBERED_S` no replica uses a key that was replaced or taken away."""
    other = keys_of(stored, stored.tenant, VAULT, clock)
    await keys.put("openai", BAIT, by=OPERATOR)
    assert await other.opened() == {"openai": BAIT}
    await keys.put("openai", "sk-another-one", by=OPERATOR)
    clock.at += REMEMBERED_S
    assert await other.opened() == {"openai": "sk-another-one"}
    await keys.delete("openai", by=OPERATOR)
    clock.at += REMEMBERED_S
    assert await other.opened() == {}
    with pytest.raises(NotFound):
        await keys.delete("openai", by=OPERATOR)


async def test_a_record_moved_to_another_tenant_or_provider_is_useless(stored: Stored, keys: ProviderKeys) -> None:
    """Who can write to the store cannot make one tenant's key serve another tenant, nor another provider."""
    await keys.put("openai", BAIT, by=OPERATOR)
    record = await stored.store.read("HGET", f"rlm:{{{stored.tenant}}}:provider_keys", "openai")
    assert isinstance(record, bytes)
    other = TenantId(new_id("ten"))
    await stored.store.write("HSET", f"rlm:{{{other}}}:provider_keys", "openai", record)
    with pytest.raises(StoreFailed):
        await keys_of(stored, other, VAULT, Clock()).opened()
    await stored.store.write("HSET", f"rlm:{{{stored.tenant}}}:provider_keys", "anthropic", record)
    with pytest.raises(StoreFailed):
        await keys_of(stored, stored.tenant, VAULT, Clock()).opened()


async def test_another_vault_key_opens_nothing(stored: Stored, keys: ProviderKeys) -> None:
    """Without the vault key what the store holds is useless, and the message says what happened."""
    await keys.put("openai", BAIT, by=OPERATOR)
    with pytest.raises(StoreFailed, match="RLM_VAULT_KEY_FILE"):
        await keys_of(stored, stored.tenant, KeyFile(b"another"), Clock()).opened()


@pytest.mark.parametrize("key", ["short", "sk-with a space", "sk-with\nline", "sk-ümlaut-0000", "k" * 5000])
async def test_what_no_header_can_hold_is_refused(keys: ProviderKeys, key: str) -> None:
    """A key that could not be sent, or would smuggle something in, is refused, and the message does not quote it."""
    with pytest.raises(BadRequest) as refused:
        await keys.put("openai", key, by=OPERATOR)
    assert key not in str(refused.value)


async def test_providers_are_bounded_and_named(stored: Stored, clock: Clock) -> None:
    """A tenant keeps keys for so many providers, under names that cannot be anything else."""
    keys = keys_of(stored, stored.tenant, VAULT, clock, most_providers=1)
    await keys.put("openai", BAIT, by=OPERATOR)
    await keys.put("openai", BAIT, by=OPERATOR)
    with pytest.raises(QuotaExceeded):
        await keys.put("gemini", BAIT, by=OPERATOR)
    for name in ("", "Open AI", "a:b", "x" * 41):
        with pytest.raises(BadRequest):
            await keys.put(name, BAIT, by=OPERATOR)
