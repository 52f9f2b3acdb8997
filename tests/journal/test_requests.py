"""Requests that may come twice: what each stands for is decided once."""

from dataclasses import dataclass, field

import anyio
import pytest

from service.errors import NotFound
from service.journal.requests import (
    CLAIMED_S,
    KEPT_S,
    Claim,
    IdempotencyKeyReused,
    RequestInProgress,
    Requests,
)
from service.runs.requests.once import act_under
from service.store.keys import Keys
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

SENT = {"sender": "key_1", "route": "POST /v1/runs", "key": "k", "body_sha256": "d"}


@dataclass(eq=False)
class Clock:
    now: float = 1000.0

    async def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    requests: Requests
    clock: Clock = field(default_factory=Clock)


@pytest.fixture
def desk(stored: Stored) -> Desk:
    clock = Clock()
    return Desk(requests=Requests(stored.store, stored.tenant, clock), clock=clock)


async def test_what_a_request_stands_for_stays_through_a_claim_that_ran_out(desk: Desk) -> None:
    """While somebody does it, others are told to come back; when that one died, the next one does it under the same
    id; and who was given up for dead ends nobody else's claim."""
    first = await desk.requests.claim(**SENT, target="one")
    with pytest.raises(RequestInProgress):
        await desk.requests.claim(**SENT, target="two")
    desk.clock.now += CLAIMED_S + 1
    second = await desk.requests.claim(**SENT, target="two")
    assert (second.is_ours, second.target) == (True, "one")
    await desk.requests.done(first)
    await desk.requests.refused(first)
    with pytest.raises(RequestInProgress):
        await desk.requests.claim(**SENT, target="three")
    await desk.requests.done(second)
    third = await desk.requests.claim(**SENT, target="three")
    assert (third.is_ours, third.target) == (False, "one")


async def test_a_claim_that_is_renewed_does_not_run_out(desk: Desk) -> None:
    """Nobody else does a request that takes longer than a claim; who lost the claim renews nobody else's."""
    first = await desk.requests.claim(**SENT, target="one")
    desk.clock.now += CLAIMED_S - 1
    await desk.requests.renew(first)
    desk.clock.now += CLAIMED_S - 1
    with pytest.raises(RequestInProgress):
        await desk.requests.claim(**SENT, target="two")
    desk.clock.now += 2
    second = await desk.requests.claim(**SENT, target="two")
    desk.clock.now += CLAIMED_S + 1
    await desk.requests.renew(first)
    assert (await desk.requests.claim(**SENT, target="three")).token != second.token


async def test_a_claim_is_renewed_while_its_request_is_done(desk: Desk, stored: Stored) -> None:
    """However long it takes; and what goes wrong in it is raised as it is."""
    claim = await desk.requests.claim(**SENT, target="one")

    async def act(target: str) -> None:
        claimed_until = await stored.store.read("HGET", claim.request, "until")
        desk.clock.now += CLAIMED_S - 1
        with anyio.fail_after(60):
            while await stored.store.read("HGET", claim.request, "until") == claimed_until:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        desk.clock.now += 2
        with pytest.raises(RequestInProgress):
            await desk.requests.claim(**SENT, target="two")
        raise NotFound("it cannot be done")

    with pytest.raises(NotFound):
        await act_under(desk.requests, claim, act, renew_every_s=0.01)


async def test_a_refused_request_leaves_nothing(desk: Desk) -> None:
    """The same key may be used for another try, with another body even."""
    await desk.requests.refused(await desk.requests.claim(**SENT, target="one"))
    again = await desk.requests.claim(**SENT | {"body_sha256": "other"}, target="two")
    assert (again.is_ours, again.target) == (True, "two")


@pytest.mark.parametrize("other", [{"sender": "key_2"}, {"route": "POST /v1/sessions"}, {"key": "l"}])
async def test_only_sender_route_and_key_together_are_the_same_request(desk: Desk, other: dict[str, str]) -> None:
    """Whoever else uses the key, or uses it elsewhere, makes another request."""
    await desk.requests.claim(**SENT, target="one")
    assert (await desk.requests.claim(**SENT | other, target="two")).target == "two"


async def test_one_key_is_one_body(desk: Desk) -> None:
    """Another body under a key is refused, while the first is being done and afterwards."""
    claim = await desk.requests.claim(**SENT, target="one")
    with pytest.raises(IdempotencyKeyReused):
        await desk.requests.claim(**SENT | {"body_sha256": "other"}, target="two")
    await desk.requests.done(claim)
    with pytest.raises(IdempotencyKeyReused):
        await desk.requests.claim(**SENT | {"body_sha256": "other"}, target="two")


async def test_what_a_request_shall_not_stand_for_any_more_is_replaced_for_the_same_body_only(desk: Desk) -> None:
    """Another body under the key is refused all the same, and the request stands for what it stood for."""
    await desk.requests.done(await desk.requests.claim(**SENT, target="one"))
    with pytest.raises(IdempotencyKeyReused):
        await desk.requests.claim(**SENT | {"body_sha256": "other"}, target="two", instead_of="one")
    assert (await desk.requests.claim(**SENT, target="three")).target == "one"
    again = await desk.requests.claim(**SENT, target="two", instead_of="one")
    assert (again.is_ours, again.target) == (True, "two")


async def test_a_tenants_requests_are_bounded(stored: Stored) -> None:
    """Beyond the most the oldest that are done are forgotten, never one that is being done; refused ones and those
    whose day is over take no room."""
    clock = Clock()
    desk = Desk(requests=Requests(stored.store, stored.tenant, clock, most_kept=5), clock=clock)
    index = Keys(stored.tenant)("requests")

    async def claimed(key: str) -> Claim:
        desk.clock.now += 0.001
        return await desk.requests.claim(**(SENT | {"key": key}), target=key)

    being_done = await claimed("being done")
    for number in range(20):
        await desk.requests.done(await claimed(f"done {number}"))
    await desk.requests.refused(await claimed("refused"))
    kept = await stored.store.read("ZCARD", index)
    assert isinstance(kept, int)
    assert 1 < kept <= 5
    with pytest.raises(RequestInProgress):
        await claimed("being done")
    assert not (await claimed("done 19")).is_ours
    assert (await claimed("done 0")).is_ours
    await desk.requests.done(being_done)
    assert not (await claimed("being done")).is_ours
    desk.clock.now += KEPT_S + 1
    await claimed("the next day")
    assert await stored.store.read("ZCARD", index) == 1
