"""`/livez`, `/readyz` and `/version`."""

from importlib.metadata import version
from typing import Literal

from fastapi import Response
from pydantic import Field

from service.web.callers import RoomsOfService
from service.web.doors import open_router
from service.web.shapes import Shown, example

router = open_router(None, tag="operations")


class Alive(Shown):
    """The process answers."""

    model_config = example({"status": "alive"})

    status: Literal["alive"] = "alive"


class Readiness(Shown):
    """Whether requests should be sent here."""

    model_config = example({"status": "ready", "reason": None}, {"status": "not_ready", "reason": "it is draining"})

    status: Literal["ready", "not_ready"]
    reason: str | None = Field(default=None, description="Why not.")


class Version(Shown):
    """Which version this is."""

    model_config = example({"name": "rlm-service", "version": "0.1.0"})

    name: Literal["rlm-service"] = "rlm-service"
    version: str


@router.get("/livez", summary="Whether the process answers")
async def livez() -> Alive:
    """For whoever restarts processes: it asks nothing else, so it answers whatever else fails."""
    return Alive()


@router.get(
    "/readyz",
    summary="Whether requests should be sent here",
    responses={503: {"model": Readiness, "description": "Not now: it is draining, or can keep nothing."}},
)
async def readyz(rooms: RoomsOfService, response: Response) -> Readiness:
    """For load balancers: whether the store answers, there is room on the disk, and the replica is not about to leave.
    Within two seconds."""
    reason = "it is draining" if rooms.drain.was_asked else await rooms.probe.trouble()
    if reason is None:
        return Readiness(status="ready")
    response.status_code = 503
    return Readiness(status="not_ready", reason=reason)


@router.get("/version", summary="Which version this is")
async def version_shown() -> Version:
    """As the package is versioned."""
    return Version(version=version("rlm-service"))
