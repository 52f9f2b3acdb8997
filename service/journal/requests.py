"""Requests that a client may send twice: what each stands for is decided, and kept, before it is done.

So a client that lost the reply, or met a replica that died, sends the same request again and finds what the first one
made, never a second one of it.
"""

import hashlib
import secrets
from dataclasses import dataclass

from service.errors import Fault, RlmServiceError
from service.ids import TenantId
from service.store.connection import Clock, Store
from service.store.keys import Keys
from service.store.scripts import load_script

KEPT_S = 24 * 3600
MOST_KEPT = 100_000
"""Of one tenant: beyond it the oldest that is done is forgotten."""
CLAIMED_S = 30.0
"""How long a claim holds without a word of who made it: some ten times what doing a request takes."""
RENEW_EVERY_S = CLAIMED_S / 4

_CLAIM = load_script("service.journal", "claim_request.lua", leaves_keys=True)
_SETTLE = load_script("service.journal", "settle_request.lua")


class RequestInProgress(RlmServiceError):
    """A request with the same idempotency key is being done right now."""

    code = "request_in_progress"
    fault = Fault.CALLER
    may_be_retried = True


class IdempotencyKeyReused(RlmServiceError):
    """The idempotency key was used for a request with another body."""

    code = "idempotency_key_reused"
    fault = Fault.CALLER


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a request stands for, and whether it is this caller's to do."""

    target: str
    """The id of what the request makes, or has made."""
    is_ours: bool
    """Whether it is yet to be done, by whoever has this claim."""
    request: str
    token: str


class Requests:
    """The requests of one tenant that may be sent again, by the key that they carry or are given."""

    def __init__(self, store: Store, tenant: TenantId, now: Clock, *, most_kept: int = MOST_KEPT) -> None:
        self._store = store
        self._most_kept = most_kept
        self._keys = Keys(tenant)
        self._now = now

    async def claim(
        self, *, sender: str, route: str, key: str, body_sha256: str, target: str, instead_of: str | None = None
    ) -> Claim:
        """Find what the request stands for; `target` when nobody has sent it before.

        Called before the request is done. A claim that is ours ends with `done` or `refused`, else it runs out
        `CLAIMED_S` after it was made or renewed last.

        Args:
            sender: whose key it is: the same key of somebody else is another one.
            route: likewise.
            key: the client's idempotency key.
            body_sha256: of the request's body, which must be the same again.
            target: the id of what the request is to make.
            instead_of: what the request stood for and is not to stand for any more.

        Raises:
            RequestInProgress: somebody else is doing it.
            IdempotencyKeyReused: it was another request.
        """
        request = self._keys("request", hashlib.sha256(f"{sender}\n{route}\n{key}".encode()).hexdigest())
        token, now = secrets.token_hex(8), await self._now()
        reply = await self._store.run(
            _CLAIM,
            [request, self._keys("requests")],
            [
                *(body_sha256, target, token, repr(now), repr(now + CLAIMED_S), KEPT_S * 1000),
                *(instead_of or "", self._most_kept),
            ],
            is_idempotent=True,
        )
        match reply:
            case [b"claimed", bytes(found)]:
                return Claim(target=found.decode(), is_ours=True, request=request, token=token)
            case [b"done", bytes(found)]:
                return Claim(target=found.decode(), is_ours=False, request=request, token=token)
            case [b"busy", _]:
                raise RequestInProgress(
                    "a request with this Idempotency-Key is in progress: send it again in a moment",
                    data={"retry_after_s": 1},
                )
            case _:
                raise IdempotencyKeyReused(
                    "this Idempotency-Key was used for a request with another body: use a new key for a new request"
                )

    async def renew(self, claim: Claim) -> None:
        """It is still being done: the claim runs out `CLAIMED_S` from now. One that was lost stays lost. Idempotent."""
        until = repr(await self._now() + CLAIMED_S)
        await self._settle(claim, "renewed", until)

    async def done(self, claim: Claim) -> None:
        """What the request stands for is there. Idempotent."""
        await self._settle(claim, "done")

    async def refused(self, claim: Claim) -> None:
        """Nothing was made and nothing will be: the same key may be used for another try. Idempotent."""
        await self._settle(claim, "refused")

    async def _settle(self, claim: Claim, *how: str) -> None:
        keys = [claim.request, self._keys("requests")]
        await self._store.run(_SETTLE, keys, [claim.token, *how], is_idempotent=True)
