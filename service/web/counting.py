"""Counts requests, around everything else; and the page on which Prometheus reads the counts, on a port of its own."""

import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics.replica import NO_ROUTE, ReplicaMetrics
from service.metrics.series import CONTENT_TYPE


class Counted:
    """The outermost layer: by the template of the route, never by the path, which clients choose."""

    def __init__(self, app: ASGIApp, metrics: ReplicaMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._metrics.count_request(scope["method"], route, status, seconds=time.monotonic() - began)


def metrics_app(text: Callable[[], str]) -> ASGIApp:
    """`GET /metrics`, for everybody who reaches its listener."""

    async def metrics(request: Request) -> Response:
        return Response(text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/metrics", metrics)])
