"""What stands behind the question mark of a URL."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError

MOST_UNKNOWN = 20
"""Parameters of one query that are told."""


def refuse_unknown_query(request: Request) -> None:
    """For every route of our own that takes a query: what would narrow a list or lengthen a wait, and does not, must
    not look as if it did.

    Raises:
        RequestValidationError: a parameter of the query is none that the route has.
    """
    known = {each.alias for each in request.scope["route"].dependant.query_params}
    unknown = [name for name in request.query_params if known and name not in known]
    if unknown:
        told = f"there is no parameter of this name: there are {', '.join(sorted(known))}"
        raise RequestValidationError(
            [{"type": "unknown_parameter", "loc": ("query", name), "msg": told} for name in unknown[:MOST_UNKNOWN]]
        )
