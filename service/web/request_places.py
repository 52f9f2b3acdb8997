"""Places of requests: how many this replica answers at once, and how many of them may be one tenant's.

A tenant may have as many requests under way as there are places that nobody has. So one alone gets half of all, two get
a third each and leave a third, and however many there are, whoever comes next has a place (so do switches share their
buffers among ports: Choudhury and Hahne, 1998). Nothing is set apart for anybody, and there is nothing to set.

A request has its place from when its key was checked until its response has been sent. What takes long, a body that
comes slowly, a wait for a run, a stream of events, holds it as long.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.ids import TenantId
from service.tenants.errors import ConcurrencyLimited

COME_BACK_AFTER_S = 5
"""What is told to who is refused: streams and uploads end rather in seconds than at once."""


def has_place(state: Mapping[str, object]) -> bool:
    """Whether the request with this state has a place: its door says so there. One without may be broken off for
    others."""
    return bool(state.get("has_place"))


class RequestPlaces:
    """Of one replica, over all tenants. Where nobody has a key (health, the OpenAPI document) no place is taken."""

    def __init__(self, most: int) -> None:
        """`most` is how many connections there may be, because each has one request under way."""
        self._most = most
        self._taken: Counter[TenantId] = Counter()
        self._total = 0

    def __repr__(self) -> str:
        return f"<RequestPlaces {self._total} of {self._most} taken by {len(self._taken)} tenants>"

    @contextmanager
    def place(self, tenant: TenantId) -> Iterator[None]:
        """One place for the time of the block.

        Raises:
            ConcurrencyLimited: the others need what is left.
        """
        taken, free = self._taken[tenant], self._most - self._total
        if taken >= free:
            raise ConcurrencyLimited(
                f"this tenant has {taken} requests under way here, and no more than that are left to all others: end "
                "streams and uploads that are not needed, or try again in a moment",
                data={"limit_name": "requests", "level": "tenant", "count": taken, "retry_after_s": COME_BACK_AFTER_S},
            )
        self._taken[tenant] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
