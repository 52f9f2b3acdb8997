"""`Idempotency-Key`: a request that is sent twice is done once.

The id of what a request makes is decided and kept with the key before anything is made. Whoever sends the request again
finds it, also after a lost reply or a replica that died in the middle.
"""

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Header, Request

from service.errors import BadRequest, RlmServiceError
from service.journal.requests import Claim, Requests
from service.store.errors import StoreFailed
from service.tenants.values import Caller

LONGEST_KEY = 255
REPLAYED = "idempotent-replayed"
"""Header of a response to a request that had been done before."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        max_length=LONGEST_KEY,
        description="Any string of yours. Sent again with the same body within 24 hours, the request is done once.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a request stands for."""

    target: str
    was_done_before: bool


async def once(
    requests: Requests,
    request: Request,
    caller: Caller,
    key: str | None,
    *,
    new_target: Callable[[], str],
    act: Callable[[str], Awaitable[None]],
) -> Done:
    """Do the request, unless it has been done: `act` makes what has the id that it is given.

    `act` must raise when there is no such thing afterwards, and must bear to be told an id that exists already, which
    happens when a replica died between making it and saying so.

    Raises:
        RequestInProgress, IdempotencyKeyReused, BadRequest: the key cannot be used (now).
    """
    if key is None:
        target = new_target()
        await act(target)
        return Done(target=target, was_done_before=False)
    if not key or not key.isascii() or not key.isprintable():
        raise BadRequest(
            "an Idempotency-Key has 1 to 255 printable ASCII characters", data={"param": "idempotency-key"}
        )
    claim = await requests.claim(
        sender=caller.key.id,
        route=f"{request.method} {request.scope['route'].path}",
        key=key,
        body_sha256=hashlib.sha256(await request.body()).hexdigest(),
        target=new_target(),
    )
    if not claim.is_ours:
        return Done(target=claim.target, was_done_before=True)
    await _act_under(requests, claim, act)
    return Done(target=claim.target, was_done_before=False)


async def _act_under(requests: Requests, claim: Claim, act: Callable[[str], Awaitable[None]]) -> None:
    try:
        # Not broken off half-way when the client goes away: what it asked for would be there and nobody would say so.
        with anyio.CancelScope(shield=True):
            await act(claim.target)
    except StoreFailed:
        # Whether it was made is unknown. The claim runs out, and the next try finds the same id.
        raise
    except RlmServiceError:
        with contextlib.suppress(StoreFailed):
            await requests.refused(claim)
        raise
    with contextlib.suppress(StoreFailed):  # the claim runs out, and the next try finds what is there
        await requests.done(claim)
