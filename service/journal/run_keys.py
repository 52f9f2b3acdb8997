"""Where one tenant's runs stand in the store."""

from dataclasses import dataclass

from service.ids import RunId, TenantId
from service.journal.tenants_at_work import unfinished_key
from service.store.fences import Fence
from service.store.keys import Keys


@dataclass(frozen=True, slots=True)
class RunKeys:
    keys: Keys

    @classmethod
    def of(cls, tenant: TenantId) -> "RunKeys":
        return cls(Keys(tenant))

    @property
    def tenant(self) -> TenantId:
        return self.keys.tenant

    @property
    def all(self) -> str:
        """The index of root runs."""
        return self.keys("runs")

    @property
    def unfinished(self) -> str:
        """Root runs, by the time until which each is kept."""
        return unfinished_key(self.tenant)

    def run(self, run_id: RunId) -> str:
        return self.keys("run", run_id)

    def events(self, run_id: RunId) -> str:
        return self.keys("run", run_id, "events")

    def children(self, run_id: RunId) -> str:
        return self.keys("run", run_id, "children")

    def fence(self, run_id: RunId, epoch: int) -> Fence:
        """What a write is given that is only to happen while this epoch of the run stands."""
        return Fence(((self.run(run_id), epoch),))
