"""Grants: a random token for each run and generation, bound to what that run's code may ask for.

Kept in this process, because the gateway socket that a sandbox can reach is this process's too; a replica that takes
a run over starts a new generation with a new grant. Only the token's digest is kept.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Fault, RlmServiceError
from service.runs.host_calls.host_calls import HostCalls


class GrantRefused(RlmServiceError):
    """The token is unknown, revoked or expired. It does not say which."""

    code = "grant_refused"
    fault = Fault.POLICY


class Grants:
    """Which token stands for which run's host calls."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._granted: dict[str, tuple[HostCalls, float]] = {}

    def __repr__(self) -> str:
        return f"<Grants valid={len(self)}>"

    def __len__(self) -> int:
        """How many tokens there are that stand for something, or did until they expired."""
        return len(self._granted)

    @contextmanager
    def granted(self, host_calls: HostCalls, *, expires_at: float) -> Iterator[str]:
        """A fresh token that works until the block is left, and never after `expires_at`."""
        token = secrets.token_urlsafe(32)
        digest = _digest(token)
        self._granted[digest] = (host_calls, expires_at)
        try:
            yield token
        finally:
            del self._granted[digest]

    def resolve(self, token: str) -> HostCalls:
        """What the token stands for. Looked up by digest, so that timing tells nothing of other tokens.

        Raises:
            GrantRefused: it stands for nothing (any more).
        """
        host_calls, expires_at = self._granted.get(_digest(token), (None, 0.0))
        if host_calls is None or self._now() >= expires_at:
            raise GrantRefused("this grant is not valid: it is unknown, revoked or expired")
        return host_calls


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
