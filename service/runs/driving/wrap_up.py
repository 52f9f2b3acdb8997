"""The wrap-up's money: held from the start, so that even a run that spends everything can say what it has."""

from service.ids import CallId, RunId
from service.ledger.values import Charge, Entry
from service.loop.commands import AskRoot, Command
from service.loop.values import Purpose
from service.runs.calls.values import Hold
from service.runs.standing import Standing
from service.runs.submission.first_event import wrap_up_amount


def wrap_up_hold(standing: Standing) -> Hold:
    """The reservation that was made at submit for the root run's wrap-up call."""
    plan = standing.submitted.wrap_up
    assert plan is not None, "only a planned wrap-up is reserved"
    amount = wrap_up_amount(standing.root_route.price, plan)
    return Hold(call_id=wrap_up_hold_id(standing.run_id), amount=amount, max_output_tokens=plan.max_output_tokens)


def wrap_up_charge(standing: Standing, *, at: float) -> Charge:
    """What is held for the wrap-up call, and booked if nobody comes back to it."""
    hold = wrap_up_hold(standing)
    return Charge(
        entry=Entry(
            call_id=hold.call_id,
            run_id=standing.run_id,
            model=standing.root_route.name,
            purpose=Purpose.WRAP_UP.value,
            at=at,
            nano_usd=hold.amount.nano_usd,
            input_tokens=hold.amount.tokens - hold.max_output_tokens,
            cached_input_tokens=0,
            output_tokens=hold.max_output_tokens,
            flags=("uncertain",),
        ),
        sub_calls=0,
    )


def wrap_up_hold_id(run_id: RunId) -> CallId:
    """The reservation's id, the same for whoever looks for it."""
    return CallId(f"{run_id}/wrap_up/held")


def is_wrap_up(due: Command | None) -> bool:
    """Whether the run's last call is to be made, or may have been made already."""
    return isinstance(due, AskRoot) and due.purpose is Purpose.WRAP_UP
