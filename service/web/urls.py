"""What a URL may say: names in UTF-8, and parameters that the route has."""

from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.types import Scope

from service.errors import BadRequest

MOST_UNKNOWN = 20
"""Parameters of one query that are told."""


def refuse_other_encodings(scope: Scope) -> None:
    """Names in a URL are UTF-8. The server puts U+FFFD where one is not, and two different names would become one.

    Raises:
        BadRequest: the path or the query is something else.
    """
    for part, raw in (("path", scope.get("raw_path")), ("query", scope.get("query_string"))):
        try:
            unquote_to_bytes(raw or b"").decode()
        except UnicodeDecodeError as exc:
            raise BadRequest(f"the {part} of the URL must be UTF-8, percent-encoded: {exc.reason}") from None


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
