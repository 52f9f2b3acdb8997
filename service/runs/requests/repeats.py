"""The same request again without an idempotency key: a client that gave up waiting and tries once more.

Such clients are many (the SDKs of OpenAI and Anthropic after ten minutes, LiteLLM, DSPy), and a second run of the same
question costs the same money again. So the second request is given the first one's run, while that is live or has just
ended. A client that counts its tries says which request is its first: it may ask the same twice on purpose, so that one
gets a run of its own, unless the earlier client has left without an answer. LiteLLM (DSPy too) retries above the SDK
that counts, so each of its tries calls itself the first.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum

import anyio

from service.ids import RunId
from service.journal.requests import CLAIMED_S, Claim, RequestInProgress, Requests
from service.runs.requests.once import Act, Done, Sent, act_under

LOOK_AGAIN_AFTER_S = 0.1
_NO_KEY = "the same body\n"
"""What stands in the place of an idempotency key begins with this, and a key of a client's has no line break."""


class Try(StrEnum):
    """What a client says of a request."""

    FIRST = "first"
    AGAIN = "again"
    UNKNOWN = "unknown"


async def attach_or_act(
    requests: Requests,
    sent: Sent,
    which: Try,
    *,
    new_target: Callable[[], RunId],
    act: Act,
    still_stands: Callable[[RunId, Try], Awaitable[bool]],
) -> Done:
    """The run that this very request was given before, where it still stands for it; else do the request.

    Args:
        requests: the tenant's.
        sent: what makes it the same request.
        which: what the client says of it. Later tries attach to what this one is given.
        new_target: makes the id of a run.
        act: see `once`.
        still_stands: whether such a try may have this run; asked of runs that exist or existed.

    Raises:
        RequestInProgress: an earlier try is being begun for an unreasonable time.
    """
    claim = await _claim(requests, sent, new_target())
    while not claim.is_ours:
        if await still_stands(RunId(claim.target), which):
            return Done(target=claim.target, was_done_before=True)
        claim = await _claim(requests, sent, new_target(), instead_of=claim.target)
    await act_under(requests, claim, act)
    return Done(target=claim.target, was_done_before=False)


async def _claim(requests: Requests, sent: Sent, target: RunId, *, instead_of: str | None = None) -> Claim:
    """Waits while the same request is being begun by another try: that takes moments."""
    give_up_at = anyio.current_time() + CLAIMED_S
    while True:
        try:
            return await requests.claim(
                sender=sent.sender,
                route=sent.route,
                key=f"{_NO_KEY}{sent.body_sha256}",
                body_sha256=sent.body_sha256,
                target=target,
                instead_of=instead_of,
            )
        except RequestInProgress:
            if anyio.current_time() >= give_up_at:
                raise
            await anyio.sleep(LOOK_AGAIN_AFTER_S)
