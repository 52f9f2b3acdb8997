"""What is raised when the money for a call is not there, and there is no run that could be told of it instead."""

from service.errors import Fault, RlmServiceError
from service.ledger.values import Refusal, Unit
from service.money import NanoUSD, format_usd


class BudgetExceeded(RlmServiceError):
    """A budget is used up, of a session, key or tenant; `data` says which, and when it begins anew."""

    code = "budget_exceeded"
    fault = Fault.POLICY


class BudgetInFlight(RlmServiceError):
    """A budget is held by calls under way, which will use less than they hold: try again shortly."""

    code = "budget_in_flight"
    fault = Fault.POLICY
    may_be_retried = True


def budget_error(refusal: Refusal) -> BudgetExceeded | BudgetInFlight:
    """The refusal as an error: whether it helps to come again, and the figures."""
    data: dict[str, str | int | None] = {
        "scope": refusal.account.scope,
        "unit": refusal.unit.value,
        "asked": refusal.asked,
        "limit": refusal.limit,
        "spent": refusal.spent,
        "held": refusal.held,
        "resets_at": None if refusal.resets_at is None else int(refusal.resets_at),
    }
    scope = refusal.account.scope.replace("_", " of this ")
    if refusal.is_in_flight:
        return BudgetInFlight(f"the budget of the {scope} is held by calls under way: try again shortly", data=data)
    limit, spent, asked = (_shown(refusal.unit, count) for count in (refusal.limit, refusal.spent, refusal.asked))
    remedy = "ask for less (of a run: a smaller limits.cost_usd)" if refusal.unit is Unit.NANO_USD else "ask for less"
    if refusal.resets_at is not None and refusal.asked <= refusal.limit:
        remedy += ", wait until it begins anew"
    return BudgetExceeded(
        f"the budget of the {scope} is {limit}, {spent} of it spent, and this asks for {asked}: {remedy}, or have its "
        "limit raised",
        data=data,
    )


def _shown(unit: Unit, count: int) -> str:
    return format_usd(NanoUSD(count)) if unit is Unit.NANO_USD else f"{count} {unit.value.replace('_', '-')}"
