"""What is raised when the money for a call is not there, and there is no run that could be told of it instead."""

from service.errors import Fault, RlmServiceError
from service.ledger.values import Refusal


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
    return BudgetExceeded(f"the budget of the {scope} does not cover this: raise its limit or wait", data=data)
