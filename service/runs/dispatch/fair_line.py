"""A line in which tenants take turns, however many each of them sends. Pure.

The theory is start-time fair queueing. Time is virtual: it counts what has been given out, not seconds. A tenant's next
turn has a start: the end of its last turn, or now if it has asked for nothing since. Whoever's start is the earliest is
next; its turn then ends after as much virtual time as it costs, and that start is the new now. Hence:

- Who comes into a line that others have filled is served after each of them at most once more.
- Tenants that always wait get the same share, by cost; who waits seldom is owed nothing for that.
- Within a tenant it is first come, first served. Who leaves the line costs its tenant nothing.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_FEW = 100
"""Tenants that are remembered without a look at who is idle."""


@dataclass(eq=False, slots=True)
class Ticket(Generic[T]):
    """One place in the line."""

    tenant: str
    cost: int
    item: T


@dataclass(eq=False, slots=True)
class _Tenant(Generic[T]):
    start: int
    """Of its next turn."""
    waiting: "OrderedDict[Ticket[T], None]" = field(default_factory=OrderedDict)


class FairLine(Generic[T]):
    """Who waits, and whose turn it is."""

    def __init__(self) -> None:
        self._now = 0
        self._tenants: dict[str, _Tenant[T]] = {}
        """Those that wait, and those that have had more than their share so far."""
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __repr__(self) -> str:
        tenants = sum(1 for tenant in self._tenants.values() if tenant.waiting)
        return f"<FairLine {self._waiting} of {tenants} tenants wait>"

    def join(self, tenant: str, item: T, *, cost: int = 1) -> Ticket[T]:
        """Go to the end of the tenant's own line. A turn that costs more delays the tenant's next one by as much."""
        assert cost > 0, "a turn that costs nothing would be taken for ever"
        kept = self._tenants.get(tenant)
        if kept is None:
            kept = self._tenants[tenant] = _Tenant(self._now)
        elif not kept.waiting:
            kept.start = max(kept.start, self._now)
        ticket = Ticket(tenant, cost, item)
        kept.waiting[ticket] = None
        self._waiting += 1
        return ticket

    def leave(self, ticket: Ticket[T]) -> None:
        """Without having had one's turn."""
        del self._tenants[ticket.tenant].waiting[ticket]
        self._waiting -= 1
        self._forget_idle()

    def first(self) -> Ticket[T] | None:
        """Whose turn it is; None when nobody waits. Among equals: who has waited longest for a turn."""
        waiting = [tenant for tenant in self._tenants.values() if tenant.waiting]
        return next(iter(min(waiting, key=lambda tenant: tenant.start).waiting)) if waiting else None

    def serve(self) -> Ticket[T]:
        """Let whoever is first have its turn."""
        ticket = self.first()
        assert ticket is not None, "somebody waits"
        tenant = self._tenants.pop(ticket.tenant)
        self._tenants[ticket.tenant] = tenant  # behind all others that are its equals
        del tenant.waiting[ticket]
        self._waiting -= 1
        self._now = tenant.start
        tenant.start += ticket.cost
        self._forget_idle()
        return ticket

    def _forget_idle(self) -> None:
        """Who does not wait and is owed no delay is as good as new."""
        if len(self._tenants) > _FEW:
            idle = [name for name, each in self._tenants.items() if not each.waiting and each.start <= self._now]
            for name in idle:
                del self._tenants[name]
