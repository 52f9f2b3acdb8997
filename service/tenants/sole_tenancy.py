"""Sole tenancy: a replica whose sandboxes do not keep tenants apart serves the one tenant that there is, and while it
does no other can be made.

It says so in the store, for a while at a time, and making a tenant asks there in the same step: so neither the command
line nor another replica can give it a second one. Whoever claims it counts the tenants afterwards.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from service.store.connection import Store
from service.store.errors import StoreFailed
from service.store.rounds import tried_again
from service.store.scripts import load_script
from service.tenants.records import SOLE_TENANCIES

FOR_S = 60
"""After a replica that was killed, no tenant can be made for so long."""
_RENEWALS = 3
_RELEASE_S = 5.0

_KEEP = load_script("service.tenants", "sole_tenancy_keep.lua")


@asynccontextmanager
async def sole_tenancy(store: Store, replica: str) -> AsyncIterator[None]:
    """No second tenant can be made for the time of the block. Raises `StoreFailed`: then nothing is said for it."""
    await _keep(store, replica)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_on, store, replica)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            # What a store that fails does not take back lapses.
            with anyio.move_on_after(_RELEASE_S, shield=True), contextlib.suppress(StoreFailed):
                await store.write("ZREM", SOLE_TENANCIES, replica)


async def _keep_on(store: Store, replica: str) -> None:
    while True:
        await anyio.sleep(FOR_S / _RENEWALS)
        with tried_again("sole_tenancy_not_renewed"):
            await _keep(store, replica)


async def _keep(store: Store, replica: str) -> None:
    await store.run(_KEEP, [SOLE_TENANCIES], [replica, FOR_S], is_idempotent=True)
