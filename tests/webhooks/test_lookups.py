"""Looking up names for webhooks: whose servers are slow hold up nobody else."""

import threading

import anyio
import pytest

from service.ids import TenantId
from service.webhooks.lookups import AT_ONCE_PER_TENANT, Lookups

pytestmark = pytest.mark.anyio

SLOW, QUICK = TenantId("slow"), TenantId("quick")


async def test_slow_names_of_one_tenant_hold_up_nobody_else() -> None:
    """However many it asks, a few are looked up at once, also after whoever asked has gone; another tenant's name
    is looked up at once, and the threads that resolve names for everybody else are none of theirs."""
    may_end = threading.Event()
    asked: list[str] = []
    threads: set[str] = set()

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        threads.add(threading.current_thread().name)
        if host == "slow.test":
            may_end.wait()
        return ["93.184.215.14"]

    lookups, patient = Lookups(resolver, within_s=0.05), Lookups(resolver, within_s=60)
    try:
        for _ in range(2 * AT_ONCE_PER_TENANT):
            with pytest.raises(TimeoutError):
                await lookups.addresses_of(SLOW, "slow.test", 443)
        assert len(asked) <= AT_ONCE_PER_TENANT
        async with anyio.create_task_group() as tasks:
            for _ in range(4 * AT_ONCE_PER_TENANT):
                tasks.start_soon(patient.addresses_of, SLOW, "slow.test", 443)
            with anyio.fail_after(60):
                (address,) = await patient.addresses_of(QUICK, "quick.test", 443)
            assert str(address) == "93.184.215.14"
            assert asked.count("slow.test") <= 2 * AT_ONCE_PER_TENANT
            may_end.set()
    finally:
        may_end.set()
    assert all(name.startswith("webhook-names") for name in threads), "the loop's own threads are everybody's"


async def test_a_place_is_free_again_when_its_look_up_has_ended() -> None:
    """As often as one asks, whether there was an address or none."""

    def resolver(host: str, port: int) -> list[str]:
        if host == "none.test":
            raise OSError("no such name")
        return ["2606:2800:21f:cb07:6820:80da:af6b:8b2c%eth0"]

    lookups = Lookups(resolver, within_s=60)
    for _ in range(3 * AT_ONCE_PER_TENANT):
        assert len(await lookups.addresses_of(SLOW, "some.test", 443)) == 1
        with pytest.raises(OSError, match="no such name"):
            await lookups.addresses_of(SLOW, "none.test", 443)
