"""`Idempotency-Key`: a request that is sent twice is done once (`runs.requests`)."""

import hashlib
from collections.abc import Callable
from typing import Annotated

import anyio.to_thread
from fastapi import Header, Request

from service.journal.requests import Requests
from service.runs.requests.once import LONGEST_KEY, Act, Done, Sent
from service.runs.requests.once import once as do_once
from service.tenants.values import Caller
from service.web.bodies import INLINE_BYTES

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


async def once(
    requests: Requests,
    request: Request,
    caller: Caller,
    key: str | None,
    *,
    new_target: Callable[[], str],
    act: Act,
) -> Done:
    """Do the request, unless it has been done under this key; without a key, do it.

    Raises:
        RequestInProgress, IdempotencyKeyReused, BadRequest: the key cannot be used (now).
    """
    if key is None:
        target = new_target()
        await act(target)
        return Done(target=target, was_done_before=False)
    return await do_once(requests, await sent_by(request, caller), key, new_target=new_target, act=act)


async def sent_by(request: Request, caller: Caller) -> Sent:
    """What makes this request the same as another one."""
    body = await request.body()
    if len(body) <= INLINE_BYTES:
        digest = hashlib.sha256(body)
    else:
        digest = await anyio.to_thread.run_sync(hashlib.sha256, body)
    # The path as it was sent, not its template: the same body to another session or run is another request.
    route = f"{request.method} {request.url.path}"
    return Sent(sender=caller.key.id, route=route, body_sha256=digest.hexdigest())
