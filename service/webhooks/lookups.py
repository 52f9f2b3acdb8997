"""Looking up the names that tenants gave: in threads of its own, a few at once for each tenant.

The names are the tenants', and so may be the servers that answer for them, as slowly as they like. A look-up cannot be
broken off: its thread goes on after whoever waited has left, and its place stays taken until it has ended.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import anyio

from service.ids import TenantId

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], list[str]]
"""The addresses of a name, as text; blocks, and raises `OSError` when there are none."""

WITHIN_S = 5.0
"""For a look-up, the wait for a place included."""
AT_ONCE = 32
AT_ONCE_PER_TENANT = 2
MOST_ADDRESSES = 32


def ask_resolver(host: str, port: int) -> list[str]:
    """The machine's own resolver's word."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Lookups:
    """Of one replica, shared by the tenants."""

    def __init__(self, resolver: Resolver = ask_resolver, *, within_s: float = WITHIN_S) -> None:
        self._resolver = resolver
        self._within_s = within_s
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook-names")
        self._places: dict[
            TenantId, anyio.CapacityLimiter
        ] = {}  # as many as there are tenants, whom the operator makes

    def __repr__(self) -> str:
        return f"<Lookups under_way={sum(each.borrowed_tokens for each in self._places.values())}>"

    async def addresses_of(self, tenant: TenantId, host: str, port: int) -> list[Address]:
        """Where the name leads.

        Raises:
            OSError: it has no address, or (as `TimeoutError`) none was told in time.
        """
        with anyio.fail_after(self._within_s):
            found = await asyncio.wrap_future(await self._begun(tenant, host, port))
        return [ip_address(each.partition("%")[0]) for each in found[:MOST_ADDRESSES]]

    async def _begun(self, tenant: TenantId, host: str, port: int) -> "Future[list[str]]":
        places = self._places.setdefault(tenant, anyio.CapacityLimiter(AT_ONCE_PER_TENANT))
        place = object()
        loop = asyncio.get_running_loop()

        def ended(_: "Future[list[str]]") -> None:
            with suppress(RuntimeError):  # nobody counts any more: the loop is closed
                loop.call_soon_threadsafe(places.release_on_behalf_of, place)

        await places.acquire_on_behalf_of(place)
        lookup = self._threads.submit(self._resolver, host, port)
        lookup.add_done_callback(ended)
        return lookup
