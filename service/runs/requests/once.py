"""A request with an idempotency key: done once, whoever sends it how often."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from service.errors import BadRequest, RlmServiceError
from service.journal.requests import RENEW_EVERY_S, Claim, Requests
from service.store.errors import StoreFailed

LONGEST_KEY = 255

Act = Callable[[str], Awaitable[None]]
"""Makes what has the id that it is given. It must raise when there is no such thing afterwards, and must bear to be
told an id that exists already, which happens when a replica died between making it and saying so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What makes a request the same as another one."""

    sender: str
    """The API key's id."""
    route: str
    body_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a request stands for."""

    target: str
    was_done_before: bool


async def once(requests: Requests, sent: Sent, key: str, *, new_target: Callable[[], str], act: Act) -> Done:
    """Do the request, unless it has been done under this key.

    Raises:
        RequestInProgress, IdempotencyKeyReused, BadRequest: the key cannot be used (now).
    """
    if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise BadRequest(
            f"an Idempotency-Key has 1 to {LONGEST_KEY} printable ASCII characters", data={"param": "idempotency-key"}
        )
    claim = await requests.claim(
        sender=sent.sender, route=sent.route, key=key, body_sha256=sent.body_sha256, target=new_target()
    )
    if not claim.is_ours:
        return Done(target=claim.target, was_done_before=True)
    await act_under(requests, claim, act)
    return Done(target=claim.target, was_done_before=False)


async def act_under(requests: Requests, claim: Claim, act: Act, *, renew_every_s: float = RENEW_EVERY_S) -> None:
    """Do what was claimed, and say how it went. The claim is renewed while that lasts: it may wait for its turn."""
    try:
        # Not broken off half-way when the client goes away: what it asked for would be there and nobody would say so.
        with anyio.CancelScope(shield=True):
            await _act_renewing(requests, claim, act, renew_every_s)
    except StoreFailed:
        # Whether it was made is unknown. The claim runs out, and the next try finds the same id.
        raise
    except RlmServiceError:
        with contextlib.suppress(StoreFailed):
            await requests.refused(claim)
        raise
    with contextlib.suppress(StoreFailed):  # the claim runs out, and the next try finds what is there
        await requests.done(claim)


async def _act_renewing(requests: Requests, claim: Claim, act: Act, every_s: float) -> None:
    failure: Exception | None = None
    async with anyio.create_task_group() as both:
        both.start_soon(_keep_renewing, requests, claim, every_s)
        try:
            await act(claim.target)
        except Exception as exc:  # noqa: BLE001 - raised below, and not as the group that a task group makes of it
            failure = exc
        both.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _keep_renewing(requests: Requests, claim: Claim, every_s: float) -> None:
    """Until cancelled. A store that fails is asked again before the claim runs out."""
    while True:
        await anyio.sleep(every_s)
        with contextlib.suppress(StoreFailed):
            await requests.renew(claim)
