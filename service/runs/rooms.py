"""What the use cases work with: every room below, as `wiring` opened it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from service.contexts.open_contexts import OpenContexts
from service.contexts.redis_contexts import Contexts
from service.contexts.uploads import Uploads
from service.ids import RunId
from service.journal.redis_journal import Journal
from service.journal.requests import Requests
from service.journal.values import Recorded
from service.ledger.redis_ledger import Ledger
from service.loop.prompts import PromptPack
from service.loop.values import DivergencePolicy
from service.models.catalog import Catalog, Route
from service.runs.calls.metered_call import MeteredCalls
from service.runs.dispatch.dispatch import Dispatch
from service.runs.host_calls.grants import Grants
from service.runs.recovery.leases import Leases
from service.runs.sessions.open_session import SessionRooms
from service.sandboxes.port import Provider
from service.sandboxes.slots import Slots
from service.store.blobs import Blobs
from service.tenants.quotas import Quotas
from service.tenants.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsRooms:
    """One value instead of a dozen parameters; it decides nothing."""

    journal: Journal
    blobs: Blobs
    ledger: Ledger
    dispatch: Dispatch
    metered: MeteredCalls
    requests: Requests
    contexts: Contexts
    open_contexts: OpenContexts
    uploads: Uploads
    catalog: Catalog
    provider_keys: Callable[[], Awaitable[Mapping[str, str]]]
    """The tenant's own keys for model providers, by provider."""
    packs: Mapping[str, PromptPack]
    """The operator's own; the shipped ones are always there."""
    provider: Provider
    slots: Slots
    grants: Grants
    session: SessionRooms
    leases: Leases
    quotas: Quotas
    storage: Storage
    on_divergence: DivergencePolicy
    """Of runs whose requests leave it open."""
    now: Callable[[], float]

    async def route_to(self, model: str) -> Route:
        """How a model is called for this tenant: with its own key where it has left one.

        Raises:
            UnknownModel, UnpricedModel, MissingApiKey: see `Catalog.resolve`.
            StoreFailed: a key that it has left cannot be read.
        """
        return self.catalog.resolve(model, await self.provider_keys())

    async def uncount(self, referrer: str) -> list[str]:
        """What is kept under this id counts as the tenant's storage no longer; what `Storage.drop` replies."""
        return await self.storage.drop(referrer)

    async def events_of(self, run_id: RunId) -> list[Recorded]:
        """The run's whole journal so far."""
        recorded: list[Recorded] = []
        while page := await self.journal.read(run_id, after=recorded[-1].seq if recorded else 0):
            recorded.extend(page)
        return recorded
