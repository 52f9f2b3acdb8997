"""Counts: how much at once a tenant and its keys have under way, among all replicas.

What is limited is counted in the tenant's quotas, under the id of what is counted and with a lease that this replica
renews while the work goes on. If the replica dies, the leases lapse; whoever takes the work over takes them again under
the same ids. What nothing limits is not counted, and asks the store for nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import anyio
import structlog

from service.ids import KeyId
from service.runs.dispatch.tenant_rules import TenantRules
from service.store.errors import StoreFailed
from service.store.fences import NO_FENCE, Fence
from service.store.rounds import tried_again
from service.tenants.errors import ConcurrencyLimited
from service.tenants.quotas import LEASE_S, Counted
from service.tenants.values import Level, limit

RENEW_EVERY_S = LEASE_S / 3
LOOK_AGAIN_S = 1.0
"""How soon who waits learns of a place that another replica's work has left; of this one's it learns at once."""
GIVE_BACK_WITHIN_S = 5.0

log = structlog.get_logger(__name__)


class Counts:
    """Those of one tenant on this replica."""

    def __init__(self, rules: TenantRules) -> None:
        self._rules = rules
        self._held: dict[Counted, dict[str, tuple[Level, ...]]] = {counted: {} for counted in Counted}
        self._changed = anyio.Event()
        self._doors: dict[tuple[Counted, str], anyio.Lock] = {}
        self._before: Counter[tuple[Counted, str]] = Counter()
        """How many stand before each door."""

    def __repr__(self) -> str:
        return f"<Counts {' '.join(f'{counted}={len(held)}' for counted, held in self._held.items() if held)}>"

    async def take(
        self, counted: Counted, lease_ids: Sequence[str], key_line: Sequence[KeyId], *, within: Fence = NO_FENCE
    ) -> None:
        """Count them, until `give_back`: all or none, unless the fence does not stand. Idempotent by the ids.

        Raises:
            ConcurrencyLimited: there would be too many.
            StoreFailed
        """
        levels = await self._rules.levels_of(key_line)
        if all(limit(level.limits, counted) is None for level in levels):
            return
        held = self._held[counted]
        taken: list[str] = []
        # Shielded: what was counted and nobody knows of would count until it lapses.
        with anyio.CancelScope(shield=True):
            try:
                for lease_id in lease_ids:
                    await self._rules.quotas.acquire(counted, lease_id, levels, for_s=LEASE_S)
                    if lease_id not in held:
                        taken.append(lease_id)
                    held[lease_id] = levels
            except BaseException:
                await self.give_back(counted, *taken, within=within)
                raise

    async def wait_for(
        self, counted: Counted, lease_ids: Sequence[str], key_line: Sequence[KeyId], *, within: Fence = NO_FENCE
    ) -> None:
        """The same, waiting until it fits. Of one key it is first come, first served on this replica.

        Raises:
            TenantSuspended: nothing more is begun for this tenant.
            StoreFailed
        """
        door = (counted, key_line[0] if key_line else "")
        self._before[door] += 1
        try:
            async with self._doors.setdefault(door, anyio.Lock()):
                await self._wait_at_door(counted, lease_ids, key_line, within)
        finally:
            self._before[door] -= 1
            if not self._before[door]:
                del self._before[door], self._doors[door]

    async def _wait_at_door(
        self, counted: Counted, lease_ids: Sequence[str], key_line: Sequence[KeyId], within: Fence
    ) -> None:
        while True:
            changed = self._changed
            await self._rules.require_active()
            try:
                await self.take(counted, lease_ids, key_line, within=within)
            except ConcurrencyLimited:
                with anyio.move_on_after(LOOK_AGAIN_S):
                    await changed.wait()
            else:
                return

    def are_held(self, counted: Counted, lease_ids: Sequence[str]) -> bool:
        """Whether these were taken here, and something limits them."""
        return any(lease_id in self._held[counted] for lease_id in lease_ids)

    def are_waited_for(self, counted: Counted) -> bool:
        """Whether somebody waits here for more of them."""
        return any(what is counted for what, _ in self._before)

    async def give_back(self, counted: Counted, *lease_ids: str, within: Fence = NO_FENCE) -> None:
        """They are no more; where the fence does not stand, they are somebody else's and stay. Idempotent, shielded;
        without a store they lapse by themselves."""
        held = [lease_id for lease_id in lease_ids if self._held[counted].pop(lease_id, None) is not None]
        if not held:
            return
        with anyio.move_on_after(GIVE_BACK_WITHIN_S, shield=True):
            try:
                await self._rules.quotas.release(counted, *held, within=within)
            except StoreFailed as exc:
                log.warning("leases_left_to_lapse", counted=counted.value, count=len(held), why=str(exc))
        self._announce()

    def leave_to_others(self, counted: Counted, lease_id: str) -> None:
        """Another replica goes on with it and holds the lease from now on."""
        self._held[counted].pop(lease_id, None)

    async def renew(self) -> None:
        """Let none of them lapse; what has lapsed (the store was away for long) is counted anew, if it fits."""
        for counted, held in self._held.items():
            if not held:
                continue
            lost = await self._rules.quotas.renew(counted, list(held), for_s=LEASE_S)
            for lease_id in lost:
                levels = held.get(lease_id)
                if levels is None:
                    continue  # given back meanwhile
                try:
                    await self._rules.quotas.acquire(counted, lease_id, levels, for_s=LEASE_S)
                except ConcurrencyLimited:
                    log.warning("lease_lost", counted=counted.value, lease_id=lease_id)
                    held.pop(lease_id, None)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def keep_renewing(counts: Callable[[], Iterable[Counts]]) -> None:
    """Until cancelled: the leases of all tenants of this replica."""
    while True:
        await anyio.sleep(RENEW_EVERY_S)
        for each in list(counts()):
            with tried_again("leases_not_renewed"):
                await each.renew()
