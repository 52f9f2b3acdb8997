"""The use case: an estimate for a request, priced and rendered as it would be submitted."""

import anyio.to_thread

from service.ids import RunId, SessionId, new_id
from service.runs.estimates.estimate import Estimate, history_of, most_by_limits
from service.runs.rooms import RunsRooms
from service.runs.submission.first_event import check_affordable, check_request, first_call_amount
from service.runs.submitting import submitted_event
from service.runs.summaries import Summaries
from service.runs.values import RunRequest, RunView

LOOKED_AT = 200
"""The tenant's newest runs, of which those on the same models are the sample."""


async def estimate(rooms: RunsRooms, request: RunRequest) -> Estimate:
    """What the request may cost. Nothing is submitted, held or written.

    Raises:
        BadRequest, NotFound, UnknownModel, UnpricedModel, MissingApiKey, BudgetTooSmall: as submitting it would.
    """
    await anyio.to_thread.run_sync(check_request, request)
    session_id = request.session_id or SessionId(new_id("ses"))
    submitted = await submitted_event(rooms, request, session_id, run_id=RunId(new_id("run")))
    root, sub = await rooms.route_to(submitted.root_model), await rooms.route_to(submitted.sub_model)
    least = first_call_amount(submitted, root)
    check_affordable(submitted, root, least)
    views = await Summaries(rooms).views(await rooms.journal.list_runs(LOOKED_AT))
    prices = [route.price for each in (root, sub) for route in (each, *each.fallbacks)]
    return Estimate(
        at_most=most_by_limits(submitted.limits, prices),
        first_call=least.nano_usd,
        history=history_of([view.spent for view in views if _is_alike(view, root.name, sub.name)]),
    )


def _is_alike(view: RunView, root_model: str, sub_model: str) -> bool:
    """A finished run that asked the same models; a cell that was run by itself asked its root LM nothing."""
    same = (view.root_model, view.sub_model) == (root_model, sub_model)
    return same and view.turns > 0 and view.stop_reason is not None
