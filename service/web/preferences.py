"""What a request prefers: how long to wait (`Prefer`), which type (`Accept`), what it has already (`If-None-Match`)."""

from collections.abc import Iterable

from starlette.requests import Request

LONGEST_WAIT_S = 60.0
EVENT_STREAM = "text/event-stream"


def preferred_wait_s(request: Request) -> float | None:
    """The seconds of `Prefer: wait=30` (RFC 7240), at most `LONGEST_WAIT_S`; None when it says nothing of the kind."""
    for preference in _listed(request, "prefer"):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait" and value.strip().isdecimal() and len(value.strip()) < 10:
            return min(float(value), LONGEST_WAIT_S)
    return None


def wants_events(request: Request) -> bool:
    """Whether the response is to be a stream of server-sent events."""
    return any(kind.partition(";")[0].strip().lower() == EVENT_STREAM for kind in _listed(request, "accept"))


def has_already(request: Request, etag: str) -> bool:
    """Whether the client has what this entity tag stands for (`If-None-Match`)."""
    known = {tag.strip().removeprefix("W/") for tag in _listed(request, "if-none-match")}
    return etag.removeprefix("W/") in known or "*" in known


def _listed(request: Request, header: str) -> Iterable[str]:
    for value in request.headers.getlist(header):
        yield from value.split(",")
