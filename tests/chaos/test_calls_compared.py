"""What the audit says of calls that do not fit: each kind of them is told from an honest one."""

from dataclasses import replace

from service.ids import CallId, RunId
from service.ledger.values import Entry
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose, Usage
from service.money import NanoUSD
from tests.chaos.calls_compared import Compared, compare_calls
from tests.chaos.upstream import ROOT, Asked

PRICE = 70
BOUND = 900


def arrival(name: str, *, bound: int = 40) -> Asked:
    return Asked(
        at=1.0, tag="j0", model=ROOT, identity=name, text=f"reply to {name}", input_bound=bound, nano_usd=PRICE
    )


def result(number: int, name: str) -> CallFinished:
    """Of the root's call that `name` identifies."""
    return CallFinished(
        at=2.0,
        call_id=CallId(f"c{number}"),
        purpose=Purpose.TURN,
        model=ROOT,
        outcome=CallOutcome.OK,
        text=f"reply to {name}",
        usage=Usage(input_tokens=7, output_tokens=7),
        cost=NanoUSD(PRICE),
    )


def lost(number: int, *, bound: int = 40) -> CallFinished:
    """A call that nobody saw the end of."""
    usage = Usage(input_tokens=bound, output_tokens=9)
    return replace(
        result(number, "?"), outcome=CallOutcome.CANCELLED, text="lost", usage=usage, cost=NanoUSD(BOUND), origin=None
    )


def compared(calls: list[CallFinished], arrived: list[Asked]) -> Compared:
    """With a ledger that agrees with the journals."""
    entries = [
        Entry(
            call_id=call.call_id,
            run_id=RunId("r"),
            model=call.model,
            purpose=call.purpose,
            at=call.at,
            nano_usd=call.cost,
            input_tokens=call.usage.input_tokens,
            cached_input_tokens=0,
            output_tokens=call.usage.output_tokens,
        )
        for call in calls
    ]
    return compare_calls(calls, entries, arrived)


def test_calls_that_were_lost_and_made_once_more_fit() -> None:
    """A lost call explains its arrival, and none at all where it was lost before it was sent."""
    found = compared([lost(1), result(2, "a"), lost(3)], [arrival("a"), arrival("a")])
    assert (found.made_again, found.off) == ([], {})


def test_a_repeated_call_does_not_hide_behind_lost_ones_of_others() -> None:
    """A root call that arrived again after its result is found, however many calls of another size were lost."""
    calls = [result(1, "a"), lost(2, bound=50), lost(3, bound=60)]
    found = compared(calls, [arrival("a"), arrival("a")])
    assert found.made_again == ["a arrived 2 times"]
    assert list(found.off.values()) == [PRICE]


def test_a_call_has_one_result() -> None:
    """Two journalled results of equal calls are one too many."""
    assert compared([result(1, "a"), result(2, "a")], [arrival("a"), arrival("a")]).made_again == ["a has 2 results"]


def test_an_arrival_is_booked() -> None:
    """What arrived once and stands in no journal was not booked."""
    assert list(compared([result(1, "a")], [arrival("a"), arrival("b")]).off.values()) == [PRICE]


def test_a_result_that_nobody_gave_is_off() -> None:
    """A call that is booked as answered and never arrived was made up."""
    assert list(compared([result(1, "a"), result(2, "b")], [arrival("a")]).off.values()) == [PRICE]


def test_entries_are_compared_one_by_one() -> None:
    """Two entries whose errors cancel out are both off."""
    calls = [result(1, "a"), result(2, "b")]
    entry = Entry(
        call_id=CallId("c1"),
        run_id=RunId("r"),
        model=ROOT,
        purpose="turn",
        at=2.0,
        nano_usd=2 * PRICE,
        input_tokens=7,
        cached_input_tokens=0,
        output_tokens=7,
    )
    found = compare_calls(calls, [entry], [arrival("a"), arrival("b")])
    assert sorted(found.off.values()) == [-PRICE, PRICE]
