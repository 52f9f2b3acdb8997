"""Settling: the money of model calls that were open when a replica was lost.

Of every hold it left behind one of three things is true, and the journals tell which:

    the call's end stands in a journal   → it was about to be settled: it is settled from the journal
    it is the wrap-up's, and not in use  → it stays held, for the wrap-up to come
    anything else                        → the call may have been made, and billed: it is journalled as cancelled at all
                                           that it can have cost, and settled (flagged `uncertain`). What asked for it
                                           asks again, under a new hold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.ids import CallId, RunId
from service.journal.redis_journal import Journal
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Entry
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose, Usage
from service.money import NanoUSD
from service.runs.calls.metered_call import MeteredCalls
from service.runs.recovery.families import Member, descendants_of, known_member
from service.store.fences import Fence

LOST_IN_FLIGHT = "its replica was lost while it was in flight; charged in full, as it may have been billed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """A call that holds money and that nobody waits for any more."""

    member: Member
    """The run that made it."""
    finished: CallFinished
    is_journalled: bool


def open_calls(
    lost: Iterable[Entry], members: Sequence[Member], *, unused: frozenset[CallId], at: float
) -> list[OpenCall]:
    """What to do about each hold (known by what would be booked if nobody came back to it): pure, from what the
    journals of the family say. The first member is the one that they all stand below. `unused` are holds of calls that
    cannot have been made, unless a journal says that they were.
    """
    by_run = {member.run_id: member for member in members}
    journalled = {call_id: (member, call) for member in members for call_id, call in member.calls.items()}
    found: list[OpenCall] = []
    for entry in lost:
        known = journalled.get(entry.call_id)
        if known is not None:
            found.append(OpenCall(member=known[0], finished=known[1], is_journalled=True))
            continue
        if entry.call_id in unused:
            continue
        finished = CallFinished(
            at=at,
            call_id=entry.call_id,
            purpose=Purpose(entry.purpose),
            model=entry.model,
            outcome=CallOutcome.CANCELLED,
            text=LOST_IN_FLIGHT,
            usage=Usage(input_tokens=entry.input_tokens, output_tokens=entry.output_tokens),
            cost=NanoUSD(entry.nano_usd),
            estimated=True,
        )
        found.append(OpenCall(member=by_run.get(entry.run_id, members[0]), finished=finished, is_journalled=False))
    return found


class Settles:
    """Settles what the last driver of a tenant's run left open."""

    def __init__(self, journal: Journal, ledger: Ledger, metered: MeteredCalls) -> None:
        self._journal = journal
        self._ledger = ledger
        self._metered = metered

    async def left_open(self, run_id: RunId, *, unused: frozenset[CallId], at: float) -> list[OpenCall]:
        """What is open of a run and of every run below it."""
        first = await known_member(self._journal, (run_id,))
        members = [first, *await descendants_of(self._journal, first.lineage)]
        lost = await self._ledger.lost_entries([member.run_id for member in members])
        return open_calls(lost, members, unused=unused, at=at)

    async def settle(self, calls: Sequence[OpenCall], run_id: RunId, epoch: int, fence: Fence) -> None:
        """Settle them, as the holder of the run's epoch. Idempotent: broken off, it is done again by whoever claims the
        run next.

        Raises:
            StaleEpoch: the run has been taken over from us too.
        """
        epochs = {run_id: epoch}
        for call in calls:
            member = call.member
            if not call.is_journalled and not member.is_finished:
                if member.run_id not in epochs:
                    epochs[member.run_id] = await self._journal.take_over(member.run_id, within=fence)
                await self._journal.append(member.run_id, epochs[member.run_id], call.finished, within=fence)
            await self._metered.settle(call.finished, member.run_id)
