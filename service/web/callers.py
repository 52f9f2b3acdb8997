"""Who makes a request, and the rooms of their tenant."""

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from service.runs.holdings.holdings import Holdings
from service.runs.runs import Runs
from service.tenants.errors import Unauthenticated
from service.tenants.values import Caller
from service.web.rooms import WebRooms

LONGEST_CREDENTIAL = 512


def rooms_of(request: Request) -> WebRooms:
    """What the application works with."""
    return cast(WebRooms, request.app.state.rooms)


def credential_of(request: Request) -> str:
    """The API key of a request, as it was sent: `Authorization: Bearer …`, or `x-api-key`.

    Raises:
        Unauthenticated: there is none.
    """
    authorization = request.headers.get("authorization")
    if authorization is None:
        found = request.headers.get("x-api-key", "")
    else:
        scheme, _, found = authorization.partition(" ")
        found = found.strip() if scheme.lower() == "bearer" else ""
    if not 0 < len(found) <= LONGEST_CREDENTIAL:
        raise Unauthenticated("this needs a valid API key (Authorization: Bearer rlm_…): the operator makes them")
    return found


def caller_of(request: Request) -> Caller:
    """Who the door let in."""
    return cast(Caller, request.state.caller)


def runs_of(request: Request) -> Runs:
    """The runs of the caller's tenant, and through `rooms` whatever else is the tenant's own."""
    return rooms_of(request).tenancy.runs_of(caller_of(request).tenant.id)


def holdings_of(request: Request) -> Holdings:
    """What the caller's tenant keeps, counted at the levels of the caller."""
    return Holdings(runs_of(request).rooms, caller_of(request).levels)


RoomsOfService = Annotated[WebRooms, Depends(rooms_of)]
CallerOfRequest = Annotated[Caller, Depends(caller_of)]
RunsOfCaller = Annotated[Runs, Depends(runs_of)]
HoldingsOfCaller = Annotated[Holdings, Depends(holdings_of)]
