"""The public application: every router, and what surrounds every request."""

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service.errors import RlmServiceError
from service.web.account import audit, keys, provider_keys, standing, usage
from service.web.admin import drain as admin_drain
from service.web.admin import erasure as admin_erasure
from service.web.admin import models as admin_models
from service.web.admin import tenants, tenants_own
from service.web.boundary import Boundary
from service.web.complaints import complaints
from service.web.contexts import content as context_content
from service.web.contexts import parts, storing, uploads
from service.web.contexts import stored as stored_contexts
from service.web.counting import Counted
from service.web.dialects.anthropic import messages as anthropic_messages
from service.web.dialects.anthropic.refusals import in_dialect
from service.web.dialects.openai import chat as openai_chat
from service.web.dialects.openai import files as openai_files
from service.web.dialects.openai import models as openai_models
from service.web.dialects.openai.responses import routes as openai_responses
from service.web.gone import told_of_retention
from service.web.inbound import Inbound
from service.web.openapi.document import DESCRIPTION, document_of
from service.web.operations import capabilities, health
from service.web.problems import InvalidRequest, problem, problem_of
from service.web.rooms import WebRooms
from service.web.runs import answer, artifacts, calls, estimates, events, exports, forks, trajectory
from service.web.runs import collection as run_collection
from service.web.runs import single as single_run
from service.web.sessions import cells as session_cells
from service.web.sessions import collection as session_collection
from service.web.sessions import files as session_files
from service.web.sessions import variables as session_variables
from service.web.urls import refuse_unknown_query
from service.web.webhooks import collection as webhook_collection
from service.web.webhooks import deliveries as webhook_deliveries

NATIVE_ROUTERS = (
    health.router,
    capabilities.router,
    usage.router,
    standing.router,
    keys.router,
    provider_keys.router,
    audit.router,
    tenants.router,
    tenants_own.router,
    admin_erasure.router,
    admin_models.router,
    admin_drain.router,
    webhook_collection.router,
    webhook_deliveries.router,
    storing.router,
    stored_contexts.router,
    parts.router,
    run_collection.router,
    estimates.router,
    single_run.router,
    events.router,
    answer.router,
    artifacts.router,
    context_content.router,
    uploads.router,
    calls.router,
    trajectory.router,
    forks.router,
    exports.router,
    session_collection.router,
    session_cells.router,
    session_variables.router,
    session_files.router,
)
DIALECT_ROUTERS = (
    openai_chat.router,
    openai_responses.router,
    openai_models.router,
    openai_files.router,
    anthropic_messages.router,
)
"""Their clients add parameters of their own to a query, which are no business of ours."""
ROUTERS = (*NATIVE_ROUTERS, *DIALECT_ROUTERS)
"""Every router of the API."""


def create_app(rooms: WebRooms) -> FastAPI:
    """The ASGI application of the public listener."""
    app = FastAPI(
        title="rlm-service",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.rooms = rooms
    app.state.inbound = Inbound()
    for router in NATIVE_ROUTERS:
        app.include_router(router, dependencies=[Depends(refuse_unknown_query)])
    for router in DIALECT_ROUTERS:
        app.include_router(router)
    app.add_middleware(Boundary)
    app.add_middleware(Counted, metrics=rooms.metrics)
    app.add_exception_handler(RlmServiceError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_routed)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


async def _refused(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RlmServiceError)
    return in_dialect(request.url.path, problem_of(told_of_retention(request, exc), request.state.request_id))


async def _invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors = complaints(exc.errors())
    first = errors[0] if errors else {"at": "body", "message": "cannot be used"}
    refusal = InvalidRequest(f"{first['at']}: {first['message']}", data={"param": first["at"].removeprefix("body.")})
    return in_dialect(request.url.path, problem_of(refusal, request.state.request_id, errors=errors))


async def _not_routed(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "bad_request")
    detail = {
        404: "there is no such route: /openapi.json lists those there are",
        405: "this route has no such method: the header allow lists those it has",
    }.get(exc.status_code, str(exc.detail)[:300])
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(_methods_of(request))
    refusal = problem(code, exc.status_code, detail, request.state.request_id, headers=headers)
    return in_dialect(request.url.path, refusal)


def _methods_of(request: Request) -> list[str]:
    """All that the path has: each of its methods is a route of its own, and the router names those of the first."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    of_path = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in of_path for method in route.methods or ()})


def _document(app: FastAPI) -> dict[str, Any]:
    """Made once."""
    if app.openapi_schema is None:
        app.openapi_schema = document_of(app)
    return app.openapi_schema
