"""What the routes work with: use cases and rooms below, as `main` opened them."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from service.metrics.replica import ReplicaMetrics
from service.runs.answering.live import LiveAnswers
from service.runs.answering.profiles import Profiles
from service.runs.erasure.erasure import Erasure
from service.runs.tenancy import Tenancy
from service.tenants.api_keys import ApiKeys
from service.tenants.registry import Registry
from service.web.request_places import RequestPlaces
from service.web.store_probe import StoreProbe
from service.webhooks.rooms import WebhookRooms


class Drain:
    """Whether this replica is about to leave: once asked it is not ready any more, once it has begun it takes no more
    requests, and open streams end themselves."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` makes whoever waits for news look again."""
        self._wake = wake
        self.asked = anyio.Event()
        """Set when somebody wants this replica to end; whoever owns the process sees to it."""
        self.begun = anyio.Event()

    @property
    def has_begun(self) -> bool:
        return self.begun.is_set()

    @property
    def was_asked(self) -> bool:
        return self.asked.is_set()

    def ask(self) -> None:
        """Idempotent."""
        self.asked.set()

    def begin(self) -> None:
        """Idempotent."""
        self.ask()
        self.begun.set()
        self._wake()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRooms:
    """One value that every route finds in the application; it decides nothing."""

    tenancy: Tenancy
    api_keys: ApiKeys
    registry: Registry
    webhooks: WebhookRooms
    metrics: ReplicaMetrics
    drain: Drain
    probe: StoreProbe
    profiles: Profiles
    live: LiveAnswers
    places: RequestPlaces
    erasure: Erasure
    runs_kept_s: float | None
    """After its end; None for ever."""
    now: Callable[[], float]
