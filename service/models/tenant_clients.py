"""Clients with a tenant's own key: opened when a call needs one, at most so many at once, closed by us.

Every key has a client of its own, with connections of its own, so that no key can travel over another's. Tenants may
leave any number of keys, and connections are a bounded thing; so a client that nobody uses makes way for one that is
needed, and where all are in use a call waits, within its own time limit.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio

from service.loop.values import CallOutcome
from service.models.port import ModelAdapter, ModelCallFailed, ModelReply, ModelRequest

MOST_CLIENTS = 64
CLOSE_S = 5.0

Place = TypeVar("Place", bound=Hashable)


class TenantClients(Generic[Place]):
    """The open clients. Owned by the providers."""

    def __init__(self, opened: Callable[[Place], ModelAdapter], *, most: int = MOST_CLIENTS) -> None:
        """`opened` makes the client of a place: a provider and a key for it."""
        self._opened = opened
        self._most = most
        self._clients: OrderedDict[Place, _Client] = OrderedDict()
        """The one that was used last stands last."""
        self._freed = anyio.Event()

    def __repr__(self) -> str:
        busy = sum(client.calls > 0 for client in self._clients.values())
        return f"<TenantClients {len(self._clients)} of {self._most}, {busy} in use>"

    def adapter(self, place: Place) -> ModelAdapter:
        """An adapter that borrows the client for each call; it holds nothing itself."""
        return _Borrowing(self, place)

    @asynccontextmanager
    async def lent(self, place: Place) -> AsyncIterator[ModelAdapter]:
        """The client of a place, for one call."""
        while (client := self._clients.get(place)) is None:
            if len(self._clients) < self._most:
                client = self._clients[place] = _Client(self._opened(place))
                break
            idle = next((each for each, one in self._clients.items() if one.calls == 0), None)
            if idle is None:
                await self._freed.wait()
            else:
                await _close(self._clients.pop(idle).adapter)
        client.calls += 1
        self._clients.move_to_end(place)
        try:
            yield client.adapter
        finally:
            client.calls -= 1
            self._freed.set()
            self._freed = anyio.Event()

    async def aclose(self) -> None:
        """Close all of them. Called once, when no call is in flight."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.adapter.aclose()


class _Client:
    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter = adapter
        self.calls = 0


class _Borrowing(Generic[Place]):
    """See `ModelAdapter`."""

    def __init__(self, clients: TenantClients[Place], place: Place) -> None:
        self._clients = clients
        self._place = place

    async def complete(self, request: ModelRequest) -> ModelReply:
        """See `ModelAdapter.complete`. Waiting for a client is not part of the deadline, and is bounded by it."""
        waiting = anyio.CancelScope(deadline=anyio.current_time() + request.timeout_s)
        with waiting:
            async with self._clients.lent(self._place) as adapter:
                waiting.deadline = float("inf")
                return await adapter.complete(request)
        # Not `unavailable`: the provider has not been asked, so its breaker must not hear of it.
        raise ModelCallFailed(
            CallOutcome.RATE_LIMITED, "too many tenants call with keys of their own at once", may_be_billed=False
        )

    async def aclose(self) -> None:
        """The clients are closed by who owns them."""


async def _close(adapter: ModelAdapter) -> None:
    with anyio.move_on_after(CLOSE_S, shield=True):
        await adapter.aclose()
