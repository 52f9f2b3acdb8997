"""What calls cost: the bound before an attempt, the price after it, and the ledger's charges for both. Pure."""

from dataclasses import replace

from service.ids import CallId, RunId
from service.ledger.values import Amount, Charge, Entry, Level, Refusal, Unit
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose, Usage
from service.models.prices import bound, cost
from service.money import NanoUSD, format_usd
from service.runs.calls.values import CallFact, Hold, MeteredCall, Refused

OUTPUT_TOKENS_FLOOR = 256
"""A reply of fewer tokens than this is not worth paying its prompt for."""

_OUTCOMES = {
    Unit.NANO_USD: CallOutcome.BUDGET,
    Unit.TOKENS: CallOutcome.TOKEN_LIMIT,
    Unit.SUB_CALLS: CallOutcome.CALL_LIMIT,
}
_WORDS = {Unit.NANO_USD: "budget", Unit.TOKENS: "token limit", Unit.SUB_CALLS: "limit on sub-calls"}


def bound_of(call: MeteredCall, max_output_tokens: int) -> Amount:
    """The most that one attempt can cost, in every unit."""
    return Amount(
        nano_usd=bound(call.route.price, call.input_tokens, max_output_tokens),
        tokens=call.input_tokens + max_output_tokens,
        sub_calls=_sub_calls(call),
    )


def held_charge(call: MeteredCall, call_id: CallId, max_output_tokens: int, *, at: float) -> Charge:
    """All that one attempt may cost; booked as it stands when nobody ever says what it did cost."""
    return Charge(
        entry=Entry(
            call_id=call_id,
            run_id=call.lineage[0],
            model=call.route.name,
            purpose=call.purpose.value,
            at=at,
            nano_usd=bound(call.route.price, call.input_tokens, max_output_tokens),
            input_tokens=call.input_tokens,
            cached_input_tokens=0,
            output_tokens=max_output_tokens,
            flags=("uncertain",),
        ),
        sub_calls=_sub_calls(call),
    )


def _sub_calls(call: MeteredCall) -> int:
    return 1 if call.purpose is Purpose.SUB_CALL else 0


def settled_charge(finished: CallFinished, run_id: RunId) -> Charge:
    """What a journalled call of the run has cost."""
    flags = []
    if finished.estimated:
        flags.append("uncertain" if finished.outcome is CallOutcome.CANCELLED else "estimated")
    return Charge(
        entry=Entry(
            call_id=finished.call_id,
            run_id=run_id,
            model=finished.model,
            purpose=finished.purpose.value,
            at=finished.at,
            nano_usd=finished.cost,
            input_tokens=finished.usage.input_tokens,
            cached_input_tokens=finished.usage.cached_input_tokens,
            output_tokens=finished.usage.output_tokens,
            flags=tuple(flags),
        ),
        sub_calls=1 if finished.purpose is Purpose.SUB_CALL and finished.outcome is CallOutcome.OK else 0,
    )


def finished_event(call: MeteredCall, hold: Hold, fact: CallFact, *, at: float, started: float) -> CallFinished:
    """What the attempt costs: the reported usage, the whole bound if it may be billed unseen, or nothing."""
    usage, price, is_estimated = Usage(), NanoUSD(0), False
    if fact.reply is not None and fact.reply.usage is not None:
        usage, price = fact.reply.usage, cost(call.route.price, fact.reply.usage)
    elif fact.may_be_billed:
        usage = Usage(input_tokens=call.input_tokens, output_tokens=hold.max_output_tokens)
        price, is_estimated = hold.amount.nano_usd, True
    return CallFinished(
        at=at,
        call_id=hold.call_id,
        purpose=call.purpose,
        model=call.route.name,
        outcome=fact.outcome,
        text=fact.text,
        usage=usage,
        cost=price,
        origin=call.origin,
        estimated=is_estimated,
        duration_s=max(0.0, at - started),
        finish_reason="stop" if fact.reply is None else fact.reply.finish_reason,
    )


def on_route(call: MeteredCall, index: int) -> MeteredCall:
    """The call as it is made on one of its routes."""
    if index == 0:
        return call
    route = call.route.fallbacks[index - 1]
    return replace(call, route=route, max_output_tokens=min(call.max_output_tokens, route.card.max_output_tokens))


def fitting_output_tokens(call: MeteredCall, asked: int, refusal: Refusal) -> int | None:
    """The largest smaller output limit that fits what is left, at least the floor; None if nothing does."""
    if refusal.unit is Unit.SUB_CALLS or asked <= OUTPUT_TOKENS_FLOOR:
        return None
    left = refusal.limit - refusal.spent - refusal.held

    def fits(tokens: int) -> bool:
        return bound_of(call, tokens).of(refusal.unit) <= left

    if not fits(OUTPUT_TOKENS_FLOOR):
        return None
    low, high = OUTPUT_TOKENS_FLOOR, asked - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def refused_by(refusal: Refusal) -> Refused:
    """The refusal as the run, and the people behind it, are told of it."""
    whose = (
        refusal.account.level.value
        if refusal.account.period is None
        else (f"{refusal.account.level}'s {refusal.account.period}")
    )
    left = max(0, refusal.limit - refusal.spent - refusal.held)
    shown = format_usd(NanoUSD(left)) if refusal.unit is Unit.NANO_USD else str(left)
    message = f"what is left of the {whose} {_WORDS[refusal.unit]} ({shown}) does not cover another call"
    if refusal.account.level is Level.RUN and refusal.unit is Unit.SUB_CALLS:
        message = "the run's limit on sub-calls is reached"
    return Refused(outcome=_OUTCOMES[refusal.unit], message=message, refusal=refusal)
