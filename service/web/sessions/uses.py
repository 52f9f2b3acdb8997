"""The use cases of sessions, for the tenant of a request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from service.runs.session_use.contents import SessionContents
from service.runs.session_use.direct_cells import DirectCells
from service.runs.session_use.sessions import SessionDesk
from service.web.callers import HoldingsOfCaller, RunsOfCaller


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUses:
    """They hold nothing of their own, so each request gets fresh ones."""

    desk: SessionDesk
    cells: DirectCells
    contents: SessionContents


def uses_of(runs: RunsOfCaller, holdings: HoldingsOfCaller) -> SessionUses:
    desk = SessionDesk(runs)
    cells = DirectCells(runs, desk)
    contents = SessionContents(runs, cells, keep=holdings.keep_in_session, keep_read_out=holdings.keep_read_out)
    return SessionUses(desk=desk, cells=cells, contents=contents)


SessionUsesOfCaller = Annotated[SessionUses, Depends(uses_of)]
