"""Calls compared one by one: what arrived at the provider against what stands in journals and in the ledger.

A reply bears the identity of what was asked, so a journalled result names the very call that it answers. A call that
nobody saw the end of is known by its model and by the bound on its input that it was booked with, which few calls of a
run share. So for each identity:

    arrived ≥ 1          where a result stands in a journal: nothing is booked that was not asked
    results ≤ 1          a call whose result is journalled is never made again
    arrived − results    each of these was in flight when something was lost: a call without an end is booked for it
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.ids import CallId
from service.ledger.values import Entry
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose
from tests.chaos.upstream import Asked

Kind = tuple[str, int | None]
"""What a call that nobody saw the end of is known by: its model, and the bound on its input (None for the wrap-up)."""


@dataclass(eq=False)
class Compared:
    """What does not fit, in words."""

    made_again: list[str] = field(default_factory=list)
    """Calls that were made although their result stood in a journal."""
    off: dict[str, int] = field(default_factory=dict)
    """Nano-USD by what is off."""


def compare_calls(calls: Sequence[CallFinished], entries: Sequence[Entry], arrived: Sequence[Asked]) -> Compared:
    """Those of one run and of all below it."""
    found = Compared()
    _compare_entries(calls, entries, found)
    replies = {(asked.model, asked.text): asked for asked in arrived}
    results: Counter[str] = Counter()
    without_end: Counter[Kind] = Counter()
    for call in calls:
        asked = replies.get((call.model, call.text))
        if call.outcome is not CallOutcome.OK:
            input_bound = None if call.purpose is Purpose.WRAP_UP else call.usage.input_tokens
            without_end[call.model, input_bound] += 1
        elif asked is None:
            found.off[f"{call.call_id} has a result that nobody gave"] = call.cost or 1
        else:
            results[asked.identity] += 1
            if call.cost != asked.nano_usd:
                found.off[f"{call.call_id} is booked at {call.cost} for {asked.nano_usd}"] = call.cost - asked.nano_usd
    found.made_again += [f"{identity[:12]} has {count} results" for identity, count in results.items() if count > 1]
    _compare_arrivals(arrived, results, without_end, found)
    origins = Counter(call.origin for call in calls if call.outcome is CallOutcome.OK and call.origin is not None)
    found.made_again += [f"{origin} has {count} results" for origin, count in origins.items() if count > 1]
    return found


def _compare_entries(calls: Sequence[CallFinished], entries: Sequence[Entry], found: Compared) -> None:
    """Every journalled call is booked once and at its cost, and nothing else is."""
    journalled = {call.call_id: call.cost for call in calls}
    booked: Counter[CallId] = Counter()
    for entry in entries:
        booked[entry.call_id] += entry.nano_usd
    for call_id in journalled.keys() | booked.keys():
        if (too_much := booked[call_id] - journalled.get(call_id, 0)) != 0:
            found.off[f"{call_id} is booked otherwise than journalled"] = too_much


def _compare_arrivals(
    arrived: Sequence[Asked], results: Counter[str], without_end: Counter[Kind], found: Compared
) -> None:
    """Every arrival is the one that a result answers, or one that a call without an end is booked for."""
    left = Counter(without_end)
    times: Counter[str] = Counter()
    for asked in arrived:
        times[asked.identity] += 1
        if times[asked.identity] <= results[asked.identity]:
            continue
        kind = (asked.model, asked.input_bound)
        left[kind] -= 1
        if left[kind] >= 0:
            continue
        if results[asked.identity]:
            found.made_again.append(f"{asked.identity[:12]} arrived {times[asked.identity]} times")
        what = f"{asked.identity[:12]} arrived and nobody booked it (arrival {times[asked.identity]})"
        found.off[what] = asked.nano_usd
