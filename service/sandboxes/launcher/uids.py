"""A uid of its own for each sandbox, so that the limits which Linux counts by uid count each sandbox alone."""

import random

OWN_UIDS = range(910_000_000, 910_000_000 + (1 << 20))
MAPPED_UIDS = range(20_000, 60_000)
"""Inside a user namespace around all containers, which is at least 65,536 wide."""


class Uids:
    """Hands out the uids of a range, each to one holder at a time. It starts anywhere, so that two launchers of one
    machine rarely meet."""

    def __init__(self, uids: range) -> None:
        self._uids = uids
        self._next = random.randrange(len(uids))  # noqa: S311 - told apart, not secret
        self._taken: set[int] = set()

    def take(self) -> int:
        """Raises `LookupError` when all are taken."""
        for step in range(len(self._uids)):
            uid = self._uids[(self._next + step) % len(self._uids)]
            if uid not in self._taken:
                self._next = (self._next + step + 1) % len(self._uids)
                self._taken.add(uid)
                return uid
        raise LookupError

    def hold(self, uid: int) -> None:
        """Of a sandbox that runs already."""
        self._taken.add(uid)

    def release(self, uid: int) -> None:
        self._taken.discard(uid)

    def __repr__(self) -> str:
        return f"<Uids {len(self._taken)} of {len(self._uids)} taken>"
