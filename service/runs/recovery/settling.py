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
from service.runs.recovery.families import Member, descendants_of, member_of
from service.store.fences import Fence

LOST_IN_FLIGHT = "its replica was lost while it was in flight; charged in full, as it may have been billed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCall:
    """A call that holds money and that nobody waits for any more."""

    member: Member
    """The run that made it."""
    finished: CallFinished
    is_journalled: bool


def open_calls(lost: Iterable[Entry], members: Sequence[Member], *, at: float) -> list[OpenCall]:
    """What to do about each hold (known by what would be booked if nobody came back to it): pure, from what the
    journals of the family say. The first member is the root run.
    """
    by_run = {member.run_id: member for member in members}
    journalled = {call_id: (member, call) for member in members for call_id, call in member.calls.items()}
    found: list[OpenCall] = []
    for entry in lost:
        known = journalled.get(entry.call_id)
        if known is not None:
            found.append(OpenCall(member=known[0], finished=known[1], is_journalled=True))
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

    async def settle_open_calls(
        self, run_id: RunId, epoch: int, fence: Fence, *, except_for: frozenset[CallId], at: float
    ) -> int:
        """Settle the open calls of a root run and of every run below it; how many of them are uncertain. Idempotent:
        broken off, it is done again by whoever claims the run next.

        Raises:
            StaleEpoch: the run has been taken over from us too.
        """
        root = member_of((run_id,), await self._journal.read_all(run_id))
        members = [root, *await descendants_of(self._journal, root.lineage)]
        lost = await self._ledger.lost_entries([member.run_id for member in members])
        calls = open_calls((entry for entry in lost if entry.call_id not in except_for), members, at=at)
        epochs = {run_id: epoch}
        for call in calls:
            member = call.member
            if not call.is_journalled and not member.is_finished:
                if member.run_id not in epochs:
                    epochs[member.run_id] = await self._journal.take_over(member.run_id, within=fence)
                await self._journal.append(member.run_id, epochs[member.run_id], call.finished, within=fence)
            await self._metered.settle(call.finished, member.run_id)
        return sum(not call.is_journalled for call in calls)
