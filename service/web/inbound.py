"""Inbound: what a replica holds of bodies in memory, and how much of that may be one tenant's.

A tenant may hold as many bytes as there are that nobody holds, just as with places of requests (`request_places`, where
the reason stands): however much some hold, there is room left for who comes next.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Fault, RlmServiceError
from service.ids import TenantId

DECODED_AT_ONCE_BYTES = 256 << 20
"""Of the bodies that this replica holds decoded or is decoding: what is in them may take many times the memory."""


class ReplicaBusy(RlmServiceError):
    """This replica holds as much as it may at once; it fits a moment later."""

    code = "replica_busy"
    fault = Fault.PLATFORM
    may_be_retried = True


class Inbound:
    """How much of bodies this replica holds in memory, over all requests. One for each application."""

    def __init__(self, limit_bytes: int = DECODED_AT_ONCE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held_by: Counter[TenantId] = Counter()
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<Inbound {self.held_bytes} of {self._limit_bytes} held by {len(self._held_by)} tenants>"

    @contextmanager
    def share(self, tenant: TenantId) -> Iterator["InboundShare"]:
        """For the time of one request of this tenant; on leaving it, what it held is given back."""
        share = InboundShare(self, tenant)
        try:
            yield share
        finally:
            self.held_bytes -= share.held_bytes
            self._held_by[tenant] -= share.held_bytes
            if not self._held_by[tenant]:
                del self._held_by[tenant]

    def hold(self, tenant: TenantId, size_bytes: int) -> None:
        """Called by `InboundShare` only. Raises `ReplicaBusy`."""
        if self._held_by[tenant] + size_bytes > self._limit_bytes - self.held_bytes:
            raise ReplicaBusy("too many large requests at once: try again in a moment", data={"retry_after_s": 1})
        self._held_by[tenant] += size_bytes
        self.held_bytes += size_bytes


class InboundShare:
    """What one request holds."""

    def __init__(self, inbound: Inbound, tenant: TenantId) -> None:
        self._inbound = inbound
        self._tenant = tenant
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Raises `ReplicaBusy`."""
        self._inbound.hold(self._tenant, size_bytes)
        self.held_bytes += size_bytes
