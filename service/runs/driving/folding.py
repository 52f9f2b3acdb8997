"""Folding a run whose driver broke off, where the journal itself may be what broke it."""

from collections.abc import Iterable

import structlog

from service.ids import RunId
from service.journal.values import Recorded
from service.loop.machine import replay
from service.loop.state import RunState

log = structlog.get_logger(__name__)


def folded(run_id: RunId, recorded: Iterable[Recorded]) -> RunState | None:
    """Where the run stands; None when that is what broke it off, which must not keep it from ending."""
    try:
        return replay(entry.event for entry in recorded)
    except Exception:
        log.exception("run_not_folded", run_id=run_id)
        return None
