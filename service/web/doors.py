"""Doors: what a request has to show before anything of it is read, and how much it may carry.

The key is checked before a byte of the body is read: whoever has none costs one look at a header.
"""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from service.tenants.values import Caller, Scope
from service.web.bodies import NATIVE_BODY_BYTES, ReadRequest, has_body, read_json
from service.web.callers import caller_of, credential_of, rooms_of
from service.web.problems import Problem
from service.web.rate_headers import rate_headers

_REFUSALS: dict[int | str, dict[str, Any]] = {
    "default": {
        "model": Problem,
        "description": "Refused; `code` says why.",
        "content": {"application/problem+json": {}},
    }
}


ANY_KEY: Literal["any key"] = "any key"
"""Instead of a scope: every API key will do."""


def open_router(
    scope: Scope | Literal["any key"] | None, *, tag: str, body_limit_bytes: int = NATIVE_BODY_BYTES
) -> APIRouter:
    """A router whose routes need an API key with this scope; None lets everybody in.

    Args:
        scope: what the key must be for; `ANY_KEY` when that does not matter.
        tag: the group in the OpenAPI document.
        body_limit_bytes: of JSON bodies. Routes that stream bound them by themselves (`bodies.body_chunks`).
    """

    class Door(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            takes_json = self.body_field is not None
            needs_json = self.body_field is not None and self.body_field.field_info.is_required()

            async def guarded(request: Request) -> Response:
                if scope is not None:
                    caller = await rooms_of(request).api_keys.authenticate(credential_of(request))
                    request.state.held.enter_context(rooms_of(request).places.place(caller.tenant.id))
                    request.state.has_place = True
                    await _take_request(request, caller)
                    if isinstance(scope, Scope):
                        caller.require(scope)
                    # What the caller changes stands in the audit log with the request in which it did.
                    request.state.caller = replace(caller, request_id=request.state.request_id)
                if not takes_json or not (needs_json or has_body(request)):
                    return await handle(request)
                with request.app.state.inbound.share(caller_of(request).tenant.id) as share:
                    read = await read_json(request, share, limit_bytes=body_limit_bytes)
                    return await handle(await self._checked(read) if read.is_large else read)

            return guarded

        async def _checked(self, read: ReadRequest) -> ReadRequest:
            """The request with its body as the route's own shape, so that FastAPI, which would make it on the event
            loop, finds it made. Raises `RequestValidationError`."""
            assert self.body_field is not None, "it takes JSON"
            check = partial(self.body_field.validate, await read.json(), {}, loc=("body",))
            value, errors = await anyio.to_thread.run_sync(check)
            if errors:
                raise RequestValidationError(errors)
            return read.checked(value)

    return APIRouter(route_class=Door, tags=[tag], responses=_REFUSALS)


async def _take_request(request: Request, caller: Caller) -> None:
    """Count the request, and let the response say where its caller stands.

    Raises:
        RateLimited: too many in a minute; nothing of the body was read.
    """
    report = await rooms_of(request).registry.rates_of(caller.tenant.id).take(caller.levels, requests=1)
    request.state.rate_headers = rate_headers(report)
    report.require()
